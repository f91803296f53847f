package chsnap

import (
	"errors"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/cocoonv2/cocoon/internal/base/failure"
)

// TestAHeldClockDiffersInOneFlag: in the states of real VMMs bit 2 of byte 8 goes,
// nothing else changes, and holding it twice is holding it once.
func TestAHeldClockDiffersInOneFlag(t *testing.T) {
	files, err := filepath.Glob("testdata/*/*/state.json")
	if err != nil || len(files) == 0 {
		t.Fatalf("no states: %v", err)
	}
	clock := regexp.MustCompile(`(\\"clock\\":\{\\"Kvm\\":\[(?:\d+,){8})(\d+)(,)`)
	for _, file := range files {
		t.Run(file, func(t *testing.T) {
			b, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			if m := clock.FindSubmatch(b); m == nil || string(m[2]) != "14" {
				t.Fatalf("the fixture's clock is not known: %q", m)
			}
			s, err := ParseState(b)
			if err != nil {
				t.Fatal(err)
			}
			want := clock.ReplaceAllString(string(b), "${1}10${3}")
			for range 2 {
				if err := s.HoldClock(); err != nil {
					t.Fatal(err)
				}
				if got := string(s.Bytes()); got != want {
					t.Errorf("the state differs in more than the flag (%d bytes, want %d)", len(got), len(want))
				}
			}
		})
	}
}

func TestAClockOfAnotherKindIsNotHeld(t *testing.T) {
	b, err := os.ReadFile(filepath.Join("testdata", "v53.0", "plain-128m", "state.json"))
	if err != nil {
		t.Fatal(err)
	}
	for _, other := range []string{`{\"Kvm\":[1,2]}`, `{\"Kvm\":\"x\"}`, `{\"Kvm\":[` + strings.Repeat("256,", 47) + `256]}`} {
		changed := regexp.MustCompile(`\{\\"Kvm\\":\[(\d+,){47}\d+\]\}`).ReplaceAllLiteralString(string(b), other)
		s, err := ParseState([]byte(changed))
		if err != nil {
			t.Fatal(err)
		}
		if err := s.HoldClock(); !errors.Is(err, failure.Incompatible) && !errors.Is(err, failure.Damaged) {
			t.Errorf("%s: %v", other, err)
		}
	}
}
