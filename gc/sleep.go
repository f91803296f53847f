package gc

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/cocoonv2/cocoon/gc/garbage"
	"github.com/cocoonv2/cocoon/internal/base/failure"
	"github.com/cocoonv2/cocoon/internal/base/hint"
	"github.com/cocoonv2/cocoon/internal/base/hostfacts"
	"github.com/cocoonv2/cocoon/store"
	"github.com/cocoonv2/cocoon/store/sleep"
)

// sleepers examines the snapshots of suspended VMs. They are kept like any
// snapshot; one made only by a suspend is removed, like by any removal, once its
// VM runs again or is gone.
func (c *collector) sleepers(ctx context.Context) error {
	asleep, err := c.sleeping(ctx)
	if err != nil {
		return unreadable(err)
	}
	for id, who := range asleep {
		k := Kept{Kind: garbage.Snapshot, ID: string(id), Bytes: hostfacts.FileBytes(c.st.Path("snapshots", string(id))), Holders: []string{who.String()}}
		c.asleep = append(c.asleep, k)
	}
	slices.SortFunc(c.asleep, func(a, b Kept) int { return strings.Compare(a.ID, b.ID) })
	beds, err := sleep.Beds(ctx, c.st)
	if err != nil || len(beds) == 0 {
		return err
	}
	leased, err := c.leased(ctx)
	if err != nil {
		return err
	}
	for _, b := range beds {
		switch _, needed := asleep[b.Snapshot]; {
		case needed:
		case leased[b.Snapshot]:
			c.beds[b.VM] = true
		case !c.risen(b):
			c.doubtBed(b)
		default:
			if err := c.dropSnapshot(ctx, b); err != nil {
				return err
			}
		}
	}
	return nil
}

// risen: the VM suspended on this snapshot no longer is, and there is evidence of
// it. A missing suspend.json is none: it may not be back yet.
func (c *collector) risen(b sleep.Bed) bool {
	now, ok := c.mem.root(garbage.VM, b.VM)
	return ok && now.Awake || c.mem.rose(b.VM, b.Woken)
}

// sleeping are the suspended VMs by their snapshots, each of which exists.
func (c *collector) sleeping(ctx context.Context) (map[store.ID]sleep.Sleeper, error) {
	asleep, err := sleep.Sleepers(c.st)
	if err != nil {
		return nil, err
	}
	for id, who := range asleep {
		if exists(c.st.Path("snapshots", string(id), "manifest.json")) || !exists(who.File) {
			continue // it was woken, and its snapshot removed, since
		}
		return nil, failure.Hint(failure.New(failure.Damaged, "%s sleeps on snapshot %s, which is missing", who, id),
			"put the snapshot back, or discard its RAM with: "+hint.WakeCold.Of(who.VM.Name))
	}
	return asleep, nil
}

// leased are the snapshots in use by living processes: one of them may be about
// to become the RAM of a suspended VM.
func (c *collector) leased(ctx context.Context) (map[store.ID]bool, error) {
	live, err := c.st.Leases().Live(ctx)
	if err != nil {
		return nil, err
	}
	ids := map[store.ID]bool{}
	for _, h := range live {
		for _, id := range h.Snapshots {
			ids[id] = true
		}
	}
	return ids, nil
}

func (c *collector) dropSnapshot(ctx context.Context, b sleep.Bed) error {
	id := b.Snapshot
	gone := Removed{garbage.Snapshot, string(id), 0, "no VM sleeps on it any more"} // its blobs count for themselves
	if !c.o.DryRun {
		err := sleep.Drop(ctx, c.st, id)
		if errors.Is(err, failure.Conflict) {
			c.beds[b.VM] = true
			return nil // somebody took it meanwhile
		}
		if err != nil {
			return fmt.Errorf("gc: %w", err)
		}
		c.dropped[string(id)] = true
	}
	c.rep.Removed = append(c.rep.Removed, gone)
	return nil
}
