package restore

import (
	"encoding/json"
	"errors"
	"net/netip"
	"reflect"
	"strings"
	"testing"

	"github.com/cocoonv2/cocoon/internal/base/failure"
	"github.com/cocoonv2/cocoon/network"
	"github.com/cocoonv2/cocoon/store/ramcache"
	"github.com/cocoonv2/cocoon/store/space"
)

// TestAPlanSaysWhatWillBeMade: of what was asked for, of the snapshot as it was
// read and of the host as it was found.
func TestAPlanSaysWhatWillBeMade(t *testing.T) {
	f := found()
	f.room = ramcache.Room{Room: space.Room{Free: 3 * mib}, Cached: gib}
	f.networks = []NetworkPlan{{ID: "_net0", How: Fresh, Network: "lan", MAC: "02:00:00:00:00:01", IPs: []netip.Prefix{netip.MustParsePrefix("10.0.0.2/24")}, Why: "as a clone"}}
	for name, c := range map[string]struct {
		r    Request
		want Plan
	}{
		"one VM": {
			Request{Name: "web"},
			Plan{Name: "web", Mode: Stream, Clock: CatchUp, Ahead: true, MemoryBytes: 64 * mib, DiskBytes: 50 * gib, NeedBytes: 4096},
		},
		"a file for many, for which the cache gives way": {
			Request{Name: "a", Clones: 3, Paused: true},
			Plan{Name: "a", Mode: Map, Clock: CatchUp, Paused: true, MemoryBytes: 64 * mib, DiskBytes: 50 * gib, NeedBytes: 4096, SharedBytes: 10 * mib, FreesBytes: 7*mib + 3*4096},
		},
		"its own disks": {
			Request{ownDisks: true},
			Plan{Mode: Stream, Clock: CatchUp, MemoryBytes: 64 * mib},
		},
		"from the disks": {
			Request{Name: "cold", Cold: true},
			Plan{Name: "cold", Mode: Cold, MemoryBytes: 64 * mib, DiskBytes: 50 * gib, NeedBytes: 4096},
		},
	} {
		t.Run(name, func(t *testing.T) {
			s := saved(t, plainMemory, 0)
			got, err := planOf(c.r, s, f)
			if err != nil {
				t.Fatal(err)
			}
			c.want.SnapshotID, c.want.Networks, c.want.Why = "5", f.networks, got.Why
			if want, said := asJSON(t, c.want), asJSON(t, got); said != want || got.Why == "" {
				t.Errorf("got  %s\nwant %s", said, want)
			}
		})
	}
}

func asJSON(t *testing.T, v any) string {
	t.Helper()
	b, err := json.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

// TestPlansChangeNothingThatTheyAreMadeOf: others are made of the same.
func TestPlansChangeNothingThatTheyAreMadeOf(t *testing.T) {
	for _, r := range []Request{{}, {Clones: 5}, {Cold: true}, {Mode: Copy, AllowIncompatible: true}, {ownDisks: true}} {
		s, was, f, had := saved(t, plainMemory, 2_598_288), saved(t, plainMemory, 2_598_288), found(), found()
		f.host.TSC.Scales, had.host.TSC.Scales = true, true
		f.networks, had.networks = []NetworkPlan{{ID: "_net0"}}, []NetworkPlan{{ID: "_net0"}}
		if _, err := planOf(r, s, f); err != nil {
			t.Errorf("%+v: %v", r, err)
		}
		if !reflect.DeepEqual(s, was) || !reflect.DeepEqual(f, had) {
			t.Errorf("%+v changed what it was made of", r)
		}
	}
}

// TestWhatCannotBeIsNoPlan: there is none beside an error.
func TestWhatCannotBeIsNoPlan(t *testing.T) {
	full, old := found(), found()
	full.room = ramcache.Room{}
	old.host.CPUFlags = []string{"sse"}
	for name, c := range map[string]struct {
		r     Request
		f     findings
		class error
		says  string
	}{
		"no room":            {Request{Mode: Map}, full, failure.NoSpace, "may be needed"},
		"a flag is missing":  {Request{}, old, failure.Incompatible, "fpu"},
		"no such mode":       {Request{Mode: "warp"}, found(), failure.Usage, "warp"},
		"no such clock":      {Request{Clock: "sundial"}, found(), failure.Usage, "sundial"},
		"a clock and a boot": {Request{Cold: true, Clock: StandStill}, found(), failure.Usage, "cold boot"},
	} {
		if p, err := planOf(c.r, saved(t, plainMemory, 0), c.f); p != nil || !errors.Is(err, c.class) || !strings.Contains(err.Error(), c.says) {
			t.Errorf("%s: plan %v, error %v", name, p, err)
		}
	}
}

// TestInterfacesAreDecidedByWhatIsWanted where no network of the host has to be
// asked.
func TestInterfacesAreDecidedByWhatIsWanted(t *testing.T) {
	s := saved(t, plainMemory, 0)
	e := &Engine{}
	if _, err := e.planNetworks(s, Request{Networks: []Wish{{How: Keep}}}); !errors.Is(err, failure.Usage) {
		t.Errorf("a wish for a VM without interfaces: %v", err)
	}
	if plans, err := e.planNetworks(s, Request{Networks: []Wish{{How: None}}}); err != nil || plans != nil {
		t.Errorf("none of none: %v, %v", plans, err)
	}
	c := choice{Engine: e, snapshot: s.snapshot, clones: 2, wish: Wish{How: Tap, Tap: "t0"}}
	if _, err := c.decide(); !errors.Is(err, failure.Incompatible) {
		t.Errorf("one TAP for two: %v", err)
	}
	c.clones = 1
	if p, err := c.decide(); err != nil || p.request.Network != network.Tap || p.request.Tap != "t0" {
		t.Errorf("a TAP: %+v, %v", p, err)
	}
}
