package network

import (
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"testing"

	"github.com/cocoonv2/cocoon/internal/base/failure"
	"github.com/cocoonv2/cocoon/internal/base/owner"
	"github.com/cocoonv2/cocoon/internal/test/networktest"
)

// markedAs makes the host one of a store in a folder of its own.
func markedAs(t testing.TB, h Host, root string) Host {
	t.Helper()
	must0(t, os.MkdirAll(root, 0o700))
	id, err := owner.Give(root)
	must0(t, err)
	h.Owner, err = owner.At(root, id)
	must0(t, err)
	return h
}

// copied is the host as a copy of its store sees it, which has the records too.
func copied(t testing.TB, h Host) Host {
	t.Helper()
	to := filepath.Join(t.TempDir(), "copy")
	if out, err := exec.Command("cp", "-a", h.CacheDir, to).CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	h.CacheDir = to
	return markedAs(t, h, filepath.Join(t.TempDir(), "root"))
}

// leases of the host-local IPAM.
func leases(t testing.TB, network string) []string {
	t.Helper()
	found, err := filepath.Glob(filepath.Join(hostLocalDir, network, "10.*"))
	must0(t, err)
	slices.Sort(found)
	return found
}

// TestACopyUndoesNothingOfTheOriginals: neither by rm, nor by gc, nor by a start
// of the VM that both have, while the original's VM is stopped.
func TestACopyUndoesNothingOfTheOriginals(t *testing.T) {
	h := markedAs(t, newHost(t, networktest.Bridge{Name: "own", Subnet: "10.171.0.0/16"}), filepath.Join(t.TempDir(), "root"))
	before := traces(t, h)
	vm := vmID(t, 0)
	for i := range 2 {
		attach(t, h, Request{VM: vm, Index: i, Network: "own"})
	}
	held, standing := leases(t, "own"), traces(t, h)
	if len(held) != 2 {
		t.Fatalf("leases %q", held)
	}
	intact := func(what string) {
		t.Helper()
		if got := leases(t, "own"); !slices.Equal(got, held) {
			t.Errorf("%s: leases %q, want %q", what, got, held)
		}
		sameTraces(t, h, standing)
		must0(t, h.CheckOwner(vm))
	}
	c := copied(t, h)
	fails(t, c.CheckOwner(vm), 4, h.Owner.Root)
	_, err := c.Attach(t.Context(), Request{VM: vm, Network: "own"})
	fails(t, err, 4, h.Owner.Root)
	intact("start in the copy")

	left, err := c.Leftovers(nil)
	must0(t, err)
	if len(left) != 1 || left[0].Owner == "" || left[0].Netns != "" {
		t.Errorf("leftovers of the copy: %+v", left)
	}
	must0(t, c.Remove(t.Context(), left[0]))
	intact("gc of the copy")
	if again, err := c.Attached(); err != nil || len(again) > 0 {
		t.Errorf("the copy still has records of %q, %v", again, err)
	}

	c = copied(t, h)
	must0(t, c.RemoveVM(t.Context(), vm))
	intact("rm in the copy")
	_, err = c.Attach(t.Context(), Request{VM: vm, Network: "own"}) // its netns tells, where no record does
	fails(t, err, 4, "another store")
	intact("start in a copy without records")

	must0(t, h.RemoveVM(t.Context(), vm))
	sameTraces(t, h, before)
}

// TestAStoreThatWasMovedKeepsItsNetworks, one interface after the other.
func TestAStoreThatWasMovedKeepsItsNetworks(t *testing.T) {
	root := filepath.Join(t.TempDir(), "root")
	h := markedAs(t, newHost(t, networktest.Bridge{Name: "moved", Subnet: "10.172.0.0/16"}), root)
	before := traces(t, h)
	vm := vmID(t, 0)
	for i := range 2 {
		attach(t, h, Request{VM: vm, Index: i, Network: "moved"})
	}
	held := leases(t, "moved")
	m := copied(t, h)
	must0(t, os.RemoveAll(root))
	must0(t, m.CheckOwner(vm))
	for i, recs := 0, records(t, m, vm); i < 2; i++ {
		attach(t, m, recs[i].Attachment.Request())
	}
	if got := leases(t, "moved"); !slices.Equal(got, held) {
		t.Errorf("leases %q, want %q", got, held)
	}
	for _, rec := range records(t, m, vm) {
		if rec.Owner != m.Owner {
			t.Errorf("%s belongs to %v", rec.Attachment.Ifname, rec.Owner)
		}
	}
	if _, err := owner.Give(root); err == nil {
		t.Fatal("the folder is there still")
	}
	must0(t, os.Mkdir(root, 0o700)) // it comes back, as another store
	h = markedAs(t, h, root)
	if err := h.CheckOwner(vm); !errors.Is(err, failure.Conflict) {
		t.Errorf("whoever comes back has the netns still: %v", err)
	}
	must0(t, m.RemoveVM(t.Context(), vm))
	sameTraces(t, m, before)
}

func records(t testing.TB, h Host, vm string) []*record {
	t.Helper()
	recs, err := h.recordsOf(vm)
	must0(t, err)
	slices.SortFunc(recs, func(a, b *record) int { return a.Attachment.Index - b.Attachment.Index })
	return recs
}

// TestWhatAnOlderProgramAttachedIsBelieved to be this store's, and marked when it
// is attached again.
func TestWhatAnOlderProgramAttachedIsBelieved(t *testing.T) {
	h := newHost(t, networktest.Bridge{Name: "old", Subnet: "10.173.0.0/16", Masq: true})
	before := traces(t, h)
	vm := vmID(t, 0)
	a := attach(t, h, Request{VM: vm, Network: "old"})
	h = markedAs(t, h, filepath.Join(t.TempDir(), "root"))
	must0(t, h.CheckOwner(vm))
	attach(t, h, a.Request())
	if recs := records(t, h, vm); len(recs) != 1 || recs[0].Owner != h.Owner {
		t.Errorf("records %+v", recs)
	}
	fails(t, copied(t, h).CheckOwner(vm), 4, h.Owner.Root)
	must0(t, h.RemoveVM(t.Context(), vm))
	sameTraces(t, h, before)
}
