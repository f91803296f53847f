package gc

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/cocoonv2/cocoon/internal/failure"
	"github.com/cocoonv2/cocoon/store"
)

// sleepers looks at the snapshots that suspended VMs sleep on. They are kept as
// any snapshot is; what was made only for a VM to sleep on goes, by the way of
// any removal, once that VM runs again or is gone.
func (c *collector) sleepers(ctx context.Context) error {
	asleep, err := c.sleeping(ctx)
	if err != nil {
		return unreadable(err)
	}
	for id, who := range asleep {
		k := Kept{Kind: "snapshot", ID: string(id), Bytes: store.FileBytes(c.st.Path("snapshots", string(id))), Holders: []string{who.String()}}
		c.asleep = append(c.asleep, k)
	}
	slices.SortFunc(c.asleep, func(a, b Kept) int { return strings.Compare(a.ID, b.ID) })
	spare, err := c.st.ForSleep(ctx)
	if err != nil || len(spare) == 0 {
		return err
	}
	leased, err := c.leased(ctx)
	if err != nil {
		return err
	}
	for _, id := range spare {
		if _, needed := asleep[id]; needed || leased[id] {
			continue
		}
		if err := c.dropSnapshot(ctx, id); err != nil {
			return err
		}
	}
	return nil
}

// sleeping are the suspended VMs by their snapshots, each of which is there.
func (c *collector) sleeping(ctx context.Context) (map[store.ID]store.Sleeper, error) {
	asleep, err := c.st.Sleepers(ctx)
	if err != nil {
		return nil, err
	}
	for id, who := range asleep {
		if exists(c.st.Path("snapshots", string(id), "manifest.json")) || !exists(who.File) {
			continue // it was woken, and its snapshot removed, since
		}
		return nil, failure.Hint(failure.New(failure.Damaged, "%s sleeps on snapshot %s, which is missing", who, id),
			"put the snapshot back, or give up its RAM with: cocoon vm start --cold "+who.VM.Name)
	}
	return asleep, nil
}

// leased are the snapshots that a living process works with: one of them may be
// about to become the RAM of a suspended VM.
func (c *collector) leased(ctx context.Context) (map[store.ID]bool, error) {
	live, err := c.st.LeaseHoldings(ctx)
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

func (c *collector) dropSnapshot(ctx context.Context, id store.ID) error {
	gone := Removed{"snapshot", string(id), 0, "no VM sleeps on it any more"} // its blobs count for themselves
	if !c.o.DryRun {
		err := c.st.DropSuspended(ctx, id)
		if errors.Is(err, failure.Conflict) {
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
