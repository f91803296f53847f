package gc

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/cocoonv2/cocoon/gc/garbage"
	"github.com/cocoonv2/cocoon/internal/base/failure"
	"github.com/cocoonv2/cocoon/internal/base/hostfacts"
)

// A collector is the garbage.Run and the garbage.Undoing of the sources.

// Held reports whether an object is needed.
func (c *collector) Held(k garbage.Key) bool { return c.plan.held(k) }

// Hold keeps an object for a reason other than a root.
func (c *collector) Hold(k garbage.Key, why string) {
	c.plan.hold(k, c.plan.by(holder{name: why}), false)
}

// Judge keeps an object that is held and plans the removal of any other.
func (c *collector) Judge(o garbage.Object) {
	if c.plan.see(o.Key) {
		if c.plan.everyHolder {
			c.plan.keep(o.Kind, o.ID, o.Key, occupied(o.Path))
		}
		return
	}
	o.Reason = c.reasonOf(o.Kind, o.ID, o.Reason)
	v := victim{Object: o, bytes: occupied(o.Path)}
	if o.Last {
		c.plan.last = append(c.plan.last, v)
		return
	}
	c.plan.victims = append(c.plan.victims, v)
}

func occupied(path string) int64 {
	if path == "" {
		return 0
	}
	return hostfacts.FileBytes(path)
}

// Leave reports what does not belong to this store.
func (c *collector) Leave(f garbage.Foreign) { c.rep.Foreign = append(c.rep.Foreign, f) }

// GivenUp: the operator abandons what cannot be undone for this VM.
func (c *collector) GivenUp(vm string) bool {
	return slices.ContainsFunc(c.o.ForgetNetworks, func(part string) bool { return strings.HasPrefix(vm, part) })
}

// AtEnd is called when the run is over.
func (c *collector) AtEnd(f func()) { c.atEnd = append(c.atEnd, f) }

func (c *collector) close() {
	for _, f := range c.atEnd {
		f()
	}
}

// DryRun is that of the options.
func (c *collector) DryRun() bool { return c.o.DryRun }

// Making reports whether a living process is making a VM.
func (c *collector) Making(ctx context.Context, vm string) (bool, error) {
	if c.making == nil {
		live, err := c.st.Leases().Live(ctx)
		if err != nil {
			return false, err
		}
		c.making = map[string]bool{}
		for _, h := range live {
			for _, id := range h.VMs {
				c.making[id] = true
			}
		}
	}
	return c.making[vm], nil
}

// Undone reports an object that a source has completely undone.
func (c *collector) Undone(k garbage.Kind, id, reason string) {
	c.rep.Removed = append(c.rep.Removed, Removed{k, id, 0, reason})
}

// NotUndone reports one that it could not undo.
func (c *collector) NotUndone(k garbage.Kind, id, reason string, err error) {
	c.fail(&victim{Object: garbage.Object{Kind: k, ID: id, Reason: reason}}, err)
}

// undo has every source undo the half-done work of dead processes.
func (c *collector) undo(ctx context.Context) error {
	for _, src := range c.o.Sources {
		if src.Undo == nil {
			continue
		}
		err := src.Undo(ctx, c)
		if errors.Is(err, failure.Damaged) || errors.Is(err, failure.Incompatible) {
			return unreadable(err)
		}
		if err != nil {
			return fmt.Errorf("gc: %w", err)
		}
	}
	return nil
}

// judge decides about every object.
func (c *collector) judge(ctx context.Context, p *plan) error {
	for _, m := range modules {
		if err := errors.Join(ctx.Err(), m.collect(c, p)); err != nil {
			return err
		}
	}
	for _, src := range c.o.Sources {
		if src.Blobs != "" {
			if err := c.blobs(p, src); err != nil {
				return err
			}
		}
		if src.Objects == nil {
			continue
		}
		if err := errors.Join(ctx.Err(), src.Objects(ctx, c)); err != nil {
			return fmt.Errorf("gc: %w", err)
		}
	}
	if err := c.temporaries(p); err != nil {
		return err
	}
	p.victims = append(p.victims, p.last...)
	return nil
}

// endOutside removes objects outside the store, in the planned order.
func (c *collector) endOutside(ctx context.Context, p *plan) {
	for i := range p.victims {
		v := &p.victims[i]
		if v.End == nil {
			continue
		}
		more, err := v.End(ctx)
		if v.Reason += more; err != nil {
			c.fail(v, err)
		}
	}
}
