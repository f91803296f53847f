package restore

import (
	"context"
	"errors"
	"fmt"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/cocoonv2/cocoon/internal/base/durable"
	"github.com/cocoonv2/cocoon/internal/base/failure"
	"github.com/cocoonv2/cocoon/internal/engine/vm"
	"github.com/cocoonv2/cocoon/store"
)

// Apply makes the VM of the plan. On error nothing of it is left.
func (e *Engine) Apply(ctx context.Context, p *Plan) (*VM, error) {
	recs, err := e.ApplyAll(ctx, []*Plan{p})
	if err != nil {
		return nil, err
	}
	return recs[0], nil
}

// ApplyAll makes the VMs of several plans in parallel: all or none. No guest runs
// before all of them can: a running guest takes processors from those still being
// made, and would have run although another could not be made.
func (e *Engine) ApplyAll(ctx context.Context, plans []*Plan) ([]*VM, error) {
	lease, err := e.Store.Lease(ctx, "restore "+string(plans[0].SnapshotID))
	if err != nil {
		return nil, err
	}
	defer lease.Release()
	c := cohort{engine: e}
	held := map[store.ID]*subject{}
	for _, p := range plans {
		if held[p.SnapshotID] == nil {
			if held[p.SnapshotID], err = e.holdPlanned(ctx, lease, p.subject); err != nil {
				return nil, err
			}
		}
		p.subject = held[p.SnapshotID]
		c.runs = append(c.runs, &run{Engine: e, plan: p, lease: lease, started: time.Now(), unlock: func() {}})
	}
	defer func() {
		for _, r := range c.runs {
			r.unlock()
		}
	}()
	if err := e.makeRoom(ctx, lease, plans...); err != nil {
		return nil, err
	}
	if err := c.make(ctx); err != nil {
		return nil, failure.Undone(err, c.undo(ctx), "nothing is left of what was to be made")
	}
	return c.records(), nil
}

// cohort is VMs that are made together.
type cohort struct {
	engine *Engine
	runs   []*run
}

// sideBySide limits how many VMs are worked on at once: they wait for the disk,
// the kernel's network and their VMMs longer than they compute.
const sideBySide = 16

func (c *cohort) make(ctx context.Context) error {
	if err := c.each(ctx, (*run).buildSteps); err != nil {
		return err
	}
	if err := c.each(ctx, (*run).startSteps); err != nil {
		return err
	}
	return c.record(ctx)
}

// each does steps of every VM; the first error ends it.
func (c *cohort) each(ctx context.Context, steps func(*run) []step) error {
	g, gctx := errgroup.WithContext(ctx)
	g.SetLimit(sideBySide)
	for _, r := range c.runs {
		g.Go(func() error {
			if err := r.do(gctx, "restore.", steps(r)); err != nil {
				return fmt.Errorf("restore snapshot %s as VM %s: %w", r.plan.SnapshotID, r.plan.Name, err)
			}
			return nil
		})
	}
	return g.Wait()
}

// record publishes the VMs; their journals go after it, so that a crash between
// the two finds VMs that exist and undoes nothing.
func (c *cohort) record(ctx context.Context) error {
	for _, r := range c.runs {
		r.describe()
	}
	if err := c.engine.VMs.Publish(ctx, c.records()...); err != nil {
		return fmt.Errorf("restore snapshot %s: record: %w", c.runs[0].plan.SnapshotID, err)
	}
	durable.Step("restore.published")
	var journals []string
	for _, r := range c.runs {
		journals = append(journals, r.journal)
	}
	if err := removeJournals(journals...); err != nil {
		return err
	}
	durable.Step("restore.record")
	return nil
}

func (c *cohort) records() []*vm.Record {
	var recs []*vm.Record
	for _, r := range c.runs {
		recs = append(recs, r.rec)
	}
	return recs
}

// undo removes every VM, whatever happens to the others.
func (c *cohort) undo(ctx context.Context) error {
	errs := make([]error, len(c.runs))
	var g errgroup.Group
	g.SetLimit(sideBySide)
	for i, r := range c.runs {
		g.Go(func() error {
			errs[i] = r.undo(ctx)
			return nil
		})
	}
	_ = g.Wait() // none of them answers an error here
	return errors.Join(errs...)
}
