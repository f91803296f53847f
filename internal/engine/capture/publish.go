package capture

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/cocoonv2/cocoon/internal/base/failure"
	"github.com/cocoonv2/cocoon/internal/base/spelling"
	"github.com/cocoonv2/cocoon/internal/engine/vm"
	"github.com/cocoonv2/cocoon/store"
)

// publication is what was saved from a VM, or found in a folder, on its way to
// being published.
type publication struct {
	*source
	of       *vm.Record // the VM; nil: a folder made by hand, which may be anybody's
	meta     store.Meta
	takeOver bool                   // the name, from its present owner
	networks func() []store.Network // waits for what is being asked; nil: the spec says
	started  time.Time
}

// checkMeta refuses a name that is malformed or taken. The remedy for a taken one
// differs: only a capture may take it over.
func checkMeta(ctx context.Context, st *store.Store, meta store.Meta, takeOver bool) error {
	if err := meta.Check(); err != nil {
		return err
	}
	if meta.Name == "" {
		return nil
	}
	if takeOver {
		return spelling.CheckSnapshotName(meta.Name)
	}
	return st.Names().Free(ctx, meta.Name)
}

// publish packs what is not in packs yet and publishes the snapshot.
func (p *publication) publish(ctx context.Context, sp store.Spec) (*store.Snapshot, error) {
	if p.parent != nil {
		sp.Parent = p.parent.ID
	}
	if err := p.pack(ctx, &sp); err != nil {
		return nil, err
	}
	if p.networks != nil {
		sp.Networks = p.networks()
	}
	if err := p.agrees(&sp); err != nil {
		return nil, err
	}
	sp.Capture.TotalMs = float64(time.Since(p.started).Microseconds()) / 1000
	if !p.takeOver || p.meta.Name == "" {
		return p.commit(ctx, sp)
	}
	restore, err := p.releaseName(ctx)
	if err != nil {
		return nil, err
	}
	sn, err := p.commit(ctx, sp)
	if err != nil {
		return nil, errors.Join(err, restore())
	}
	return sn, nil
}

func (p *publication) commit(ctx context.Context, sp store.Spec) (*store.Snapshot, error) {
	sn, err := p.ingest.Commit(ctx, sp, p.meta)
	if err == nil {
		p.prints.Keep(context.WithoutCancel(ctx), sn)
	}
	return sn, err
}

// agrees checks a snapshot, before it is published, against the requirements of
// every restore; judge has done so with what was known before the capture. If a
// VM of ours differs from its record, it was changed through its VMM's API.
func (p *publication) agrees(sp *store.Spec) error {
	_, err := vm.Agree(vm.Documents{Spec: sp, Config: p.dir.Config, State: p.dir.State, Own: p.of != nil})
	if err != nil && p.of != nil {
		return fmt.Errorf("VM %s cannot be saved: %w", p.of.Name, changed(err))
	}
	return err
}

// releaseName takes the name from its present owner; the returned function gives
// it back.
func (p *publication) releaseName(ctx context.Context) (func() error, error) {
	old, err := p.store.Resolve(ctx, p.meta.Name)
	if errors.Is(err, failure.NotFound) {
		return func() error { return nil }, nil
	}
	if err != nil {
		return nil, err
	}
	set := func(name string) error {
		return p.store.SetMeta(context.WithoutCancel(ctx), old, func(m *store.Meta) error { m.Name = name; return nil })
	}
	return func() error { return set(p.meta.Name) }, set("")
}
