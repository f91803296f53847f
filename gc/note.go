package gc

import (
	"context"
	"fmt"
	"path/filepath"
	"slices"
	"time"

	"github.com/cocoonv2/cocoon/gc/garbage"
	"github.com/cocoonv2/cocoon/internal/base/account"
	"github.com/cocoonv2/cocoon/internal/base/durable"
	"github.com/cocoonv2/cocoon/store/layout"
	"github.com/cocoonv2/cocoon/store/trash"
)

// remember compares the store with its account. A loss makes this a dry run,
// unless it was accepted; that is reported then.
func (c *collector) remember(ctx context.Context) (told, err error) {
	if c.mem, err = remember(ctx, c.st, c.o.Sources); err != nil {
		return nil, err
	}
	c.rep.Lost = append(c.rep.Lost, c.mem.lost...)
	if !c.o.AcceptLoss {
		if told = Refusal(c.mem.lost); told != nil {
			c.o.DryRun, c.rep.DryRun, c.rep.Refused = true, true, true
		}
	}
	c.next = account.Begin(c.since())
	if since := c.next.New; !since.IsZero() && c.started.Before(since.Add(c.o.Grace)) {
		c.old = &old{before: since, until: since.Add(c.o.Grace)}
	}
	if c.mem.traces == nil {
		c.mem.traces, err = c.st.Trash().Traces()
	}
	return told, err
}

// since is when this store's history began to be noted; the zero time if all of
// it was, or counts as known.
func (c *collector) since() time.Time {
	switch {
	case c.o.AcceptLoss:
		return time.Time{}
	case c.mem.known == nil:
		return c.started.UTC()
	case !c.started.Before(c.mem.known.New.Add(c.o.Grace)):
		return time.Time{}
	}
	return c.mem.known.New
}

// note records what exists now, for the next run, and then removes the traces
// that the new account covers. What was removed since they were listed has a
// trace for the next run.
func (c *collector) note() error {
	gone := map[[2]string]bool{}
	for _, t := range c.mem.traces {
		gone[[2]string{t.Kind, t.ID}] = true
	}
	for id, name := range c.roots.named {
		if !gone[[2]string{string(garbage.Snapshot), string(id)}] || exists(c.st.Path("snapshots", string(id), "manifest.json")) {
			c.next.Snapshots[string(id)] = name
		}
	}
	for path, r := range c.roots.read {
		kind := r.Kind
		if kind == string(garbage.Asleep) {
			kind = string(garbage.VM)
		}
		if !gone[[2]string{kind, r.ID}] || exists(c.st.Path(path)) {
			c.next.Roots[path] = r
		}
	}
	places, err := account.Places(c.st.Root(), layout.Truth())
	if err != nil {
		return fmt.Errorf("gc: %w", err)
	}
	c.next.Folders = places
	if !c.next.Says(c.mem.known) {
		c.next.Made = c.started.UTC()
		if err := c.next.Write(c.st.Root()); err != nil {
			return fmt.Errorf("gc: %w", err)
		}
		durable.Step("gc.noted")
	}
	return c.m.Trash().Forget(slices.DeleteFunc(c.mem.traces, func(t trash.Trace) bool { return t.Kind == string(garbage.VM) && c.beds[t.ID] }))
}

// noteRead remembers a root that was read, for the account.
func (r *roots) noteRead(path string, root garbage.Root) {
	rel, err := filepath.Rel(r.st.Root(), path)
	if err != nil {
		rel = path // then the next run reports it as lost
	}
	noted := account.Root{Kind: string(root.Kind), ID: root.ID, Name: root.Name}
	if root.Kind == garbage.Asleep {
		noted.Woken = root.Woken
	}
	r.read[rel] = noted
}
