package gc

import (
	"context"
	"errors"
	"os"
	"time"

	"github.com/cocoonv2/cocoon/gc/garbage"
	"github.com/cocoonv2/cocoon/internal/base/durable"
	"github.com/cocoonv2/cocoon/internal/base/hostfacts"
	"github.com/cocoonv2/cocoon/store/trash"
)

// The store is locked for windowWork at a time, plus the time for reading changed
// roots; between two windows other processes get their turn.
const (
	windowWork = 3 * time.Millisecond
	breath     = 5 * time.Millisecond
)

// plan is what is marked and what goes.
type plan struct {
	*marks
	victims []victim
	last    []victim // to be added after all others
	kept    []Kept
}

// victim is an object that goes.
type victim struct {
	garbage.Object
	bytes  int64
	failed bool // it could not be removed, and is in Failed
}

// looked counts the entries that were examined to learn what is needed.
func (c *collector) looked() int {
	if c.roots == nil {
		return 0
	}
	return c.roots.looked
}

// windows calls each for 0 … n-1 in exclusive windows that begin with before,
// which is first called outside, so that less is left to them.
func (c *collector) windows(ctx context.Context, n int, before func() error, each func(w *trash.Window, i int) error) error {
	if n > 0 && !c.o.DryRun {
		if err := c.sweep.Prepare(); err != nil {
			return err
		}
	}
	for next := 0; next < n; {
		if err := before(); err != nil {
			return err
		}
		err := c.sweep.Window(ctx, func(w *trash.Window) error {
			locked, looked := time.Now(), c.looked()
			defer func() {
				c.rep.LockMs = max(c.rep.LockMs, ms(locked))
				c.rep.Windows.Count++
				c.rep.Windows.MostEntries = max(c.rep.Windows.MostEntries, c.looked()-looked)
			}()
			if err := before(); err != nil {
				return err
			}
			for end := time.Now().Add(windowWork); next < n && time.Now().Before(end); next++ {
				if err := each(w, next); err != nil {
					return err
				}
			}
			return nil
		})
		if err != nil {
			return err
		}
		if next < n {
			durable.Step("gc.breath")
			select {
			case <-ctx.Done():
				return ctx.Err()
			case <-time.After(breath):
			}
		}
	}
	return nil
}

// reap removes the leases of dead holders with what they had staged, and returns
// which those are; a dry run only returns them. Staged folders without any lease
// become victims.
func (c *collector) reap(ctx context.Context, p *plan) (map[string]bool, error) {
	dead := map[string]bool{}
	ids, err := c.st.Leases().IDs()
	if err != nil {
		return nil, err
	}
	var suspects []string
	for _, id := range ids {
		lives, err := c.st.Leases().Lives(id)
		if err != nil {
			return nil, err
		}
		if !lives {
			suspects = append(suspects, id)
			c.namesUnborn(id)
		}
	}
	c.rep.Leases.Live = len(ids)
	err = c.windows(ctx, len(suspects), func() error { return nil }, func(w *trash.Window, i int) error {
		id := suspects[i]
		lives, err := c.st.Leases().Lives(id) // now it is exact
		if err != nil || lives {
			return err
		}
		if c.addDead(p, garbage.Lease, id); exists(c.st.Path("ingest", id)) {
			c.addDead(p, garbage.Ingest, id)
		}
		dead[id] = true
		c.rep.Leases.Live--
		c.rep.Leases.Reaped++
		if c.o.DryRun {
			return nil
		}
		_, err = c.st.Leases().Reap(w, id)
		return err
	})
	if err != nil {
		return nil, err
	}
	return dead, c.each("ingest", func(name, path string) {
		if lease := c.st.Path("leases", name); !exists(lease) {
			v := c.addDead(p, garbage.Ingest, name)
			v.InStore, v.Still = true, func() bool { return !exists(lease) }
		}
	})
}

// addDead reports what is reaped with, or like, a dead lease.
func (c *collector) addDead(p *plan, kind garbage.Kind, id string) *victim {
	path := c.st.Path(map[garbage.Kind]string{garbage.Lease: "leases", garbage.Ingest: "ingest"}[kind], id)
	p.victims = append(p.victims, victim{Object: garbage.Object{Kind: kind, ID: id, Path: path, Reason: "its holder is dead"}, bytes: hostfacts.FileBytes(path)})
	return &p.victims[len(p.victims)-1]
}

// execute discards the victims, each only if in its window it is still not
// needed; the others are taken off the plan. A dry run checks without discarding.
func (c *collector) execute(ctx context.Context, p *plan) error {
	spared := make([]bool, len(p.victims))
	update := func() error {
		if err := c.roots.update(ctx); err != nil {
			return unreadable(err)
		}
		return nil
	}
	err := c.windows(ctx, len(p.victims), update, func(w *trash.Window, i int) error {
		v := &p.victims[i]
		if spared[i] = p.held(v.Key) || v.Still != nil && !v.Still(); spared[i] {
			return nil
		}
		if !v.InStore || c.o.DryRun {
			return nil
		}
		if err := w.Discard(v.Path); err != nil && !errors.Is(err, os.ErrNotExist) {
			c.fail(v, err)
		}
		return nil
	})
	if err := errors.Join(err, c.sweep.Settle()); err != nil {
		return err
	}
	durable.Step("gc.settled")
	left := p.victims[:0]
	for i, v := range p.victims {
		if spared[i] {
			p.keep(v.Kind, v.ID, v.Key, v.bytes)
			continue
		}
		left = append(left, v)
	}
	p.victims = left
	return nil
}

// keep reports an object that stays; only --explain shows it.
func (p *plan) keep(kind garbage.Kind, id string, o garbage.Key, bytes int64) {
	if !p.everyHolder {
		return
	}
	k := Kept{Kind: kind, ID: id, Bytes: bytes, Holders: []string{}, by: p.holdersOf(o)}
	for _, h := range k.by {
		k.Holders = append(k.Holders, h.name)
	}
	switch {
	case len(k.Holders) > 0:
	case kind == garbage.Image:
		k.Holders = append(k.Holders, "a VMM that runs, or whoever took it while gc ran")
	default:
		k.Holders = append(k.Holders, "somebody took it while gc ran")
	}
	p.kept = append(p.kept, k)
}
