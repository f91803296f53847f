package hint

import "testing"

// TestAWordIsWhatTheCallerKnowsItBy: the command says flags, a program its own names,
// and of what it has no name for, the command's.
func TestAWordIsWhatTheCallerKnowsItBy(t *testing.T) {
	t.Cleanup(func() { Speak(nil) })
	for _, c := range []struct{ said, command string }{
		{Wake.Of("web"), "cocoon vm start web"},
		{Clone.Of("snap"), "cocoon vm create NAME --from-snapshot snap"},
		{Rename.Of("a", "b"), "cocoon snapshot rename a b"},
		{Cold.String(), "--cold"},
	} {
		if c.said != c.command {
			t.Errorf("%q, want %q", c.said, c.command)
		}
	}
	Speak(map[Word]string{Wake: "Host.Wake({})", Cold: "RestoreOptions.Cold"})
	for said, want := range map[string]string{
		Wake.Of("web"): "Host.Wake(web)", Wake.Of(): "Host.Wake()", Cold.Of(): "RestoreOptions.Cold",
		TrustArgs.Of(): "the command's --trust-args", Rename.Of("a", "b"): "cocoon snapshot rename a b",
	} {
		if said != want {
			t.Errorf("%q, want %q", said, want)
		}
	}
}
