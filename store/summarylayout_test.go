package store

import (
	"encoding/json"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
)

// TestTheLayoutOfSummariesIsKnown: what this program writes is read without a
// reader of any JSON, each field of it, and nothing that stands elsewhere is.
func TestTheLayoutOfSummariesIsKnown(t *testing.T) {
	at := time.Date(2026, 1, 2, 3, 4, 5, 6, time.UTC)
	full := Summary{
		ID: fuzzID, Name: "web-1", VM: VMRef{"vm-id", "vm"}, Created: at, Description: "früh, {\"quoted\"}", Labels: map[string]string{"a": "b", "c d": ""},
		Expires: &at, Protected: true, State: "ready", Hypervisor: Hypervisor{"ch", "53.0.0"}, CPUs: 2, Memory: MemorySummary{1 << 40, 3},
		Disks: []DiskSummary{{"s", 7}, {"", 0}}, Size: Size{4, 5, 6}, Parent: fuzzID, Capture: CaptureSummary{"live", 1.5, 20, 1, 2, 3}, Key: "0123",
	}
	plain := full
	plain.Description, plain.Expires, plain.Labels, plain.Disks, plain.Key = "früh", nil, map[string]string{}, []DiskSummary{}, ""
	for name, tc := range map[string]struct {
		s    Summary
		want bool
	}{
		"plain": {plain, true}, "of nothing": {Summary{Labels: map[string]string{}, Disks: []DiskSummary{}}, true},
		"null for a list": {Summary{}, false}, "escaped": {full, false},
		"a time that is not known": {with(plain, func(s *Summary) { s.Capture.TotalMs = UnknownMs }), true},
		"a large number":           {with(plain, func(s *Summary) { s.Capture.PauseMs = 1e30 }), false},
		"with all":                 {with(full, func(s *Summary) { s.Description = "" }), true},
	} {
		text, err := json.Marshal(tc.s)
		if err != nil {
			t.Fatal(err)
		}
		var got Summary
		if known := decodeLayout(string(text), &got); known != tc.want {
			t.Errorf("%s: known %v: %s", name, known, text)
		} else if d := cmp.Diff(tc.s, got, cmpopts.IgnoreUnexported(Summary{})); known && d != "" {
			t.Errorf("%s (-want +got):\n%s", name, d)
		}
		for end := range text {
			if decodeLayout(string(text[:end]), &got) || decodeLayout(string(text[:end])+"\x00"+string(text[end:]), &got) {
				t.Errorf("%s: damaged at %d it is read all the same", name, end)
			}
		}
	}
}

// TestASummaryIsEncodedAsItIs: what a listing says is JSON already is what would
// be encoded, also after a snapshot was renamed.
func TestASummaryIsEncodedAsItIs(t *testing.T) {
	s, err := Open(t.Context(), t.TempDir(), Options{Create: true})
	if err != nil {
		t.Fatal(err)
	}
	a := tiny(t, s, "a")
	tiny(t, s, "b")
	for round, name := range []string{"a", "renamed", "again"} {
		if err := s.SetMeta(t.Context(), a, func(m *Meta) error { m.Name = name; return nil }); err != nil {
			t.Fatal(err)
		}
		time.Sleep(2 * settled) // else it is not remembered
		known := 0
		for range 2 {
			all, err := s.Summaries(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			known = 0
			for _, x := range all {
				text, err := json.Marshal(x)
				if err != nil {
					t.Fatal(err)
				}
				if x.Encoded() != "" && x.Encoded() != string(text) {
					t.Errorf("round %d: %s, want %s", round, x.Encoded(), text)
				}
				if x.ID == a && x.Name != name {
					t.Errorf("round %d: %q is listed, the name is %q", round, x.Name, name)
				}
				if x.Encoded() != "" {
					known++
				}
			}
		}
		if known != 2 {
			t.Errorf("round %d: %d of 2 are known in the second listing", round, known)
		}
	}
}

func with(s Summary, change func(*Summary)) Summary {
	change(&s)
	return s
}

// TestATimeThatCannotBeIsNull: imports of former programs counted from no time at
// all, and what a foreign snapshot says may be anything.
func TestATimeThatCannotBeIsNull(t *testing.T) {
	for ms, want := range map[float64]string{9223372036854.775: "null", -1: "null", 1e300: "null", 0: "0", 12.5: "12.5"} {
		text, err := json.Marshal(summarised(Capture{TotalMs: ms}).TotalMs)
		if err != nil || string(text) != want {
			t.Errorf("%v ms: %s, %v, want %s", ms, text, err, want)
		}
		var back Ms
		if err := json.Unmarshal(text, &back); err != nil || back != knownMs(ms) {
			t.Errorf("%s: %v, %v", text, back, err)
		}
	}
}

// TestAListOfAFormerProgramIsMadeAnew: what it said of a snapshot is not what this
// one says.
func TestAListOfAFormerProgramIsMadeAnew(t *testing.T) {
	s, err := Open(t.Context(), t.TempDir(), Options{Create: true})
	if err != nil {
		t.Fatal(err)
	}
	tiny(t, s, "a")
	for deadline := time.Now().Add(time.Minute); ; {
		if _, err := s.Summaries(t.Context()); err != nil {
			t.Fatal(err)
		}
		if len(s.readLines()) == 1 {
			break // it is settled
		}
		if time.Now().After(deadline) {
			t.Fatal("the list is not kept")
		}
	}
	b, err := os.ReadFile(s.summaryPath())
	if err != nil {
		t.Fatal(err)
	}
	former := strings.Replace(strings.TrimPrefix(string(b), summariesHeader), `"totalMs":0`, `"totalMs":9223372036854.775`, 1)
	if err := os.WriteFile(s.summaryPath(), []byte(former), 0o600); err != nil {
		t.Fatal(err)
	}
	all, err := s.Summaries(t.Context())
	if err != nil || len(all) != 1 || all[0].Capture.TotalMs != 0 || strings.Contains(all[0].Encoded(), "9223") {
		t.Errorf("%+v, %v", all, err)
	}
}
