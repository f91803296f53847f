package restore

import (
	"context"
	"errors"
	"slices"
	"strings"
	"testing"
)

// TestStepsAreUndoneLastFirst: all that were begun, also the one that failed, and
// whatever becomes of the undoing of another; none that was not begun.
func TestStepsAreUndoneLastFirst(t *testing.T) {
	boom := errors.New("boom")
	for name, c := range map[string]struct {
		fails  []string // "do X" or "undo X"
		cancel string   // the context ends in this step
		want   []string
		says   []string
	}{
		"all is well":           {nil, "", []string{"do a", "do b", "do c"}, nil},
		"the first fails":       {[]string{"do a"}, "", []string{"do a", "undo a"}, []string{"a: boom"}},
		"one in between fails":  {[]string{"do b"}, "", []string{"do a", "do b", "undo b", "undo a"}, []string{"b: boom"}},
		"and so does its undo":  {[]string{"do b", "undo b"}, "", []string{"do a", "do b", "undo b", "undo a"}, []string{"b: boom", "undo b: boom"}},
		"and every undo":        {[]string{"do c", "undo a", "undo c"}, "", []string{"do a", "do b", "do c", "undo c", "undo b", "undo a"}, []string{"c: boom", "undo c: boom", "undo a: boom"}},
		"it is called off":      {nil, "a", []string{"do a", "undo a"}, []string{"b: " + context.Canceled.Error()}},
		"it is called off late": {nil, "c", []string{"do a", "do b", "do c"}, nil},
	} {
		t.Run(name, func(t *testing.T) {
			ctx, cancel := context.WithCancel(t.Context())
			defer cancel()
			var did []string
			act := func(verb, step string) func(context.Context) error {
				return func(ctx context.Context) error {
					did = append(did, verb+" "+step)
					if verb == "undo" && ctx.Err() != nil {
						t.Errorf("%s %s is to work on a context that ended", verb, step)
					}
					if verb == "do" && step == c.cancel {
						cancel()
					}
					if slices.Contains(c.fails, verb+" "+step) {
						return boom
					}
					return nil
				}
			}
			var steps []step
			for _, s := range []string{"a", "b", "c"} {
				steps = append(steps, step{s, act("do", s), act("undo", s)})
			}
			r := &run{}
			err := r.doOrUndo(ctx, "test.", steps)
			if !slices.Equal(did, c.want) || (err != nil) != (c.says != nil) {
				t.Fatalf("did %q, want %q; error %v", did, c.want, err)
			}
			for _, s := range c.says {
				if !strings.Contains(err.Error(), s) {
					t.Errorf("%v does not say %q", err, s)
				}
			}
			if err != nil && r.undo(t.Context()) != nil || err != nil && len(did) != len(c.want) {
				t.Errorf("what was undone is undone again: %q", did)
			}
		})
	}
}

// TestStepsOfEveryMode: each brings its RAM, and only what has a guest to run lets
// it run.
func TestStepsOfEveryMode(t *testing.T) {
	names := func(steps []step) string {
		var out []string
		for _, s := range steps {
			if s.do == nil || s.undo == nil {
				t.Errorf("step %s lacks an action", s.name)
			}
			out = append(out, s.name)
		}
		return strings.Join(out, " ")
	}
	for mode, want := range map[Mode][2]string{
		Cold:   {"reserve network disks", ""},
		Copy:   {"reserve network disks memory launch load", "resume announce"},
		Map:    {"reserve network disks memory launch load", "resume announce"},
		Stream: {"reserve network disks launch load", "resume announce"},
	} {
		r := &run{plan: &Plan{Mode: mode}}
		if build, start := names(r.buildSteps()), names(r.startSteps()); build != want[0] || start != want[1] {
			t.Errorf("%s: %q, %q", mode, build, start)
		}
		r.plan.Paused = true
		if start := names(r.startSteps()); start != "" {
			t.Errorf("%s, paused: %q", mode, start)
		}
	}
}
