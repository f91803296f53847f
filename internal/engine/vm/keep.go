package vm

import (
	"context"
	"errors"
	"fmt"
	"io/fs"

	"github.com/cocoonv2/cocoon/internal/engine/keeper"
)

// Unkept are the ids of this store's VMs that run here without a keeper: it was
// killed, or an older program started them.
func (m *Manager) Unkept(ctx context.Context) ([]string, error) {
	unkept, err := m.unkept(ctx)
	var ids []string
	for id := range unkept {
		ids = append(ids, id)
	}
	return ids, err
}

func (m *Manager) unkept(ctx context.Context) (map[string]keeper.Target, error) {
	ids, err := m.run.Having(identityFile)
	if err != nil {
		return nil, err
	}
	found := map[string]keeper.Target{}
	var errs []error
	for _, id := range ids {
		kept, err := keeper.Kept(m.RunDir(id))
		if err != nil || kept {
			errs = append(errs, err)
			continue
		}
		p, err := m.running(ctx, id)
		if err == nil && p != nil {
			found[id] = target(p)
		}
		errs = append(errs, err)
	}
	return found, errors.Join(errs...)
}

// running is the VMM in the entry of a VM, nil if there is none of this store and
// this PID namespace.
func (m *Manager) running(ctx context.Context, id string) (*Process, error) {
	e, err := m.ownEntry(ctx, id)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	defer e.Close()
	who, err := readIdentity(e)
	if err != nil || who.PIDNamespace != 0 && who.PIDNamespace != pidNamespace() {
		return nil, nil // the verbs that need it report a damaged one
	}
	p := &Process{PID: who.PID, BootID: bootID(), StartTime: who.StartTime}
	if socketOf(who.PID) != who.Socket || !alive(p) || !m.owns(ctx, id, e, vmm{who.PID, who.Socket}) {
		return nil, nil
	}
	return p, nil
}

// Keep starts a keeper for each running VM without one, and returns their ids.
func (m *Manager) Keep(ctx context.Context) ([]string, error) {
	if m.o.Keeper == "" {
		return nil, nil
	}
	unkept, err := m.unkept(ctx)
	errs := []error{err}
	var done []string
	for id, of := range unkept {
		taken, err := m.o.Keeper.TakeOver(m.RunDir(id), m.o.SerialLogMax, of)
		if err != nil {
			errs = append(errs, fmt.Errorf("keep VM %s: %w", id, err))
		}
		if taken {
			done = append(done, id)
		}
	}
	return done, errors.Join(errs...)
}
