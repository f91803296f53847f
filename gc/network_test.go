package gc

import (
	"context"
	"errors"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/cocoonv2/cocoon/gc/garbage"
	"github.com/cocoonv2/cocoon/internal/base/failure"
	"github.com/cocoonv2/cocoon/network"
	"github.com/cocoonv2/cocoon/store"
)

// fakeNetwork stands for VMs by their ids; one in bad cannot be undone.
type fakeNetwork struct {
	vms     []string
	bad     string
	removed []string
	dropped []string // without the plugins

	forgotten []string // by their records alone
}

var errUndo = errors.New("plugins could not undo")

func (f *fakeNetwork) Attached() ([]string, error) { return f.vms, nil }

func (f *fakeNetwork) Leftovers(live []string) ([]network.Leftover, error) {
	var out []network.Leftover
	for _, id := range f.vms {
		if !slices.Contains(live, id) {
			out = append(out, network.Leftover{VM: id, Netns: "/run/netns/" + id[:12], Ifnames: []string{"eth0", "eth1"}})
		}
	}
	return out, nil
}

func (f *fakeNetwork) RemoveVM(_ context.Context, id string) error {
	if id == f.bad {
		return errUndo
	}
	f.removed = append(f.removed, id)
	return nil
}

func (f *fakeNetwork) DropRecords(_ context.Context, id string) error {
	f.forgotten = append(f.forgotten, id)
	return nil
}

func (f *fakeNetwork) ForgetVM(_ context.Context, id string) error {
	f.dropped = append(f.dropped, id)
	return nil
}

func TestNetworksOfNoVMGo(t *testing.T) {
	s := open(t, filepath.Join(t.TempDir(), "root"))
	l, err := s.Lease(t.Context(), "vm create")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Release()
	live, dead := "0123456789abcdef0123456789abcdef", "fedcba9876543210fedcba9876543210"
	if err := l.HoldVM(t.Context(), live); err != nil {
		t.Fatal(err)
	}
	net := &fakeNetwork{vms: []string{live, dead}}
	o := Options{DryRun: true, Explain: true, Sources: []garbage.Source{network.Garbage(net)}}
	want := []Removed{{Kind: "network", ID: dead, Reason: "its VM does not exist: eth0 eth1 in netns /run/netns/fedcba987654"}}
	rep := collect(t, s, o)
	if diff := cmp.Diff(want, rep.Removed); diff != "" || net.removed != nil {
		t.Errorf("dry run (-want +got):\n%s\nremoved %v", diff, net.removed)
	}
	kept := slices.IndexFunc(rep.Kept, func(k Kept) bool { return k.Kind == "network" })
	if kept < 0 || rep.Kept[kept].ID != live || len(rep.Kept[kept].Holders) != 1 {
		t.Errorf("kept %+v", rep.Kept)
	}
	o.DryRun = false
	if diff := cmp.Diff(want, collect(t, s, o).Removed); diff != "" || !slices.Equal(net.removed, []string{dead}) {
		t.Errorf("run (-want +got):\n%s\nremoved %v", diff, net.removed)
	}
}

// TestANetworkThatStaysKeepsNothingElse, and the report names it.
func TestANetworkThatStaysKeepsNothingElse(t *testing.T) {
	s := open(t, filepath.Join(t.TempDir(), "root"))
	gone := mustPublish(t, s, "orphan")
	if err := s.Remove(t.Context(), gone.ID, store.RemoveOptions{}); err != nil {
		t.Fatal(err)
	}
	bad, good := "0123456789abcdef0123456789abcdef", "fedcba9876543210fedcba9876543210"
	net := &fakeNetwork{vms: []string{bad, good}, bad: bad}
	rep, err := run(t.Context(), s, Options{Sources: []garbage.Source{network.Garbage(net)}})
	if !errors.Is(err, errUndo) || failure.Code(err) != 1 {
		t.Errorf("gc: %v", err)
	}
	if left := blobs(t, s); len(left) > 0 || !slices.Equal(net.removed, []string{good}) {
		t.Errorf("blobs %v, networks removed %v", left, net.removed)
	}
	if rep == nil || len(rep.Failed) != 1 || rep.Failed[0].ID != bad || len(rep.Removed) != 3 { // two blobs, the other network
		t.Errorf("report %+v", rep)
	}
}

// TestANetworkIsGivenUpWhenAskedFor: then its plugins are not waited for any more.
func TestANetworkIsGivenUpWhenAskedFor(t *testing.T) {
	s := open(t, filepath.Join(t.TempDir(), "root"))
	bad, good := "0123456789abcdef0123456789abcdef", "fedcba9876543210fedcba9876543210"
	net := &fakeNetwork{vms: []string{bad, good}, bad: bad}
	rep := collect(t, s, Options{Sources: []garbage.Source{network.Garbage(net)}, ForgetNetworks: []string{bad[:5], good}})
	if !slices.Equal(net.dropped, []string{bad}) || !slices.Equal(net.removed, []string{good}) {
		t.Errorf("dropped %v, removed %v", net.dropped, net.removed)
	}
	if len(rep.Failed) > 0 || len(rep.Removed) != 2 || !strings.Contains(rep.Removed[0].Reason, "given up") {
		t.Errorf("report %+v", rep)
	}
}
