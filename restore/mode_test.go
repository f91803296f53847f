package restore

import (
	"errors"
	"testing"

	"github.com/cocoonv2/cocoon/internal/base/failure"
)

func TestTheRightModeIsChosenAndAWrongOneRefused(t *testing.T) {
	plain, cached := facts{clones: 1}, facts{clones: 1, cached: true}
	shared := facts{clones: 1, noMap: "memory is shared"}
	old := facts{clones: 1, noStream: "Cloud Hypervisor 52.0 takes no stream"}
	neither := facts{clones: 1, noMap: "memory is shared", noStream: "Cloud Hypervisor 52.0 takes no stream"}
	for _, c := range []struct {
		name  string
		asked Mode
		facts facts
		want  Mode
		class error
	}{
		{"cold", Auto, plain, Stream, nil},
		{"warm", Auto, cached, Map, nil},
		{"empty is auto", "", cached, Map, nil},
		{"several at once share a file", Auto, facts{clones: 3}, Map, nil},
		{"several of shared memory", Auto, facts{clones: 3, noMap: "memory is shared"}, Stream, nil},
		{"shared memory", Auto, shared, Stream, nil},
		{"old VMM", Auto, old, Map, nil},
		{"old VMM, shared memory", Auto, neither, Copy, nil},
		{"copy works for all", Copy, neither, Copy, nil},
		{"map asked for, cold", Map, plain, Map, nil},
		{"stream asked for, warm", Stream, cached, Stream, nil},
		{"map of shared memory", Map, shared, "", failure.Incompatible},
		{"stream into an old VMM", Stream, old, "", failure.Incompatible},
		{"no such mode", "warp", plain, "", failure.Usage},
	} {
		t.Run(c.name, func(t *testing.T) {
			got, why, err := choose(c.asked, c.facts)
			if got != c.want || !errors.Is(err, c.class) {
				t.Errorf("chose %q (%s), error %v; want %q, %v", got, why, err, c.want, c.class)
			}
			if err == nil && why == "" {
				t.Error("no reason is given")
			}
		})
	}
}
