package restore

import (
	"errors"
	"testing"

	"github.com/cocoonv2/cocoon/internal/failure"
)

func TestParseWish(t *testing.T) {
	for text, want := range map[string]Wish{
		"keep": {How: Keep}, "fresh": {How: Fresh}, "none": {How: None},
		"keep=lan": {How: Keep, Network: "lan"}, "fresh=dmz": {How: Fresh, Network: "dmz"}, "tap=t0": {How: Tap, Tap: "t0"},
	} {
		if got, err := ParseWish(text); err != nil || got != want {
			t.Errorf("%q: %+v, %v; want %+v", text, got, err, want)
		}
	}
	for _, text := range []string{"", "lan", "tap", "tap=", "keep=", "none=x", "=lan"} {
		if got, err := ParseWish(text); !errors.Is(err, failure.Usage) {
			t.Errorf("%q: %+v, %v; want a refusal", text, got, err)
		}
	}
}
