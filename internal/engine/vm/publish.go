package vm

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/cocoonv2/cocoon/internal/base/durable"
	"github.com/cocoonv2/cocoon/internal/base/filelock"
	"github.com/cocoonv2/cocoon/store"
)

// Reserve makes the folders of a new VM, held by the lease, and locks it. The VM
// does not exist before Publish, which refuses a name that is taken; Discard
// removes the folders again.
func (m *Manager) Reserve(ctx context.Context, l *store.Lease, name, verb string) (*Record, func(), error) {
	var b [16]byte
	rand.Read(b[:])
	rec := &Record{Version: recordVersion, ID: hex.EncodeToString(b[:]), Name: name, Created: time.Now().UTC(), State: Created, Disks: []Disk{}, Networks: []Network{}}
	if err := l.HoldVM(ctx, rec.ID); err != nil {
		return nil, nil, err
	}
	if err := durable.Mkdir(m.Dir(rec.ID), 0o700); err != nil {
		return nil, nil, errors.Join(fmt.Errorf("make VM folder: %w", err), durable.IgnoreMissing(os.Remove(m.Dir(rec.ID))))
	}
	if err := os.WriteFile(m.makingPath(rec.ID), nil, 0o600); err != nil {
		return nil, nil, errors.Join(fmt.Errorf("make VM folder: %w", err), os.RemoveAll(m.Dir(rec.ID)))
	}
	durable.Step("vm.reserved")
	entry, err := m.run.Make(ctx, rec.ID, nil)
	if err != nil {
		return nil, nil, errors.Join(err, os.RemoveAll(m.Dir(rec.ID)))
	}
	entry.Close()
	unlock, err := m.lock(ctx, rec.ID, verb)
	if err != nil {
		return nil, nil, errors.Join(err, m.Discard(ctx, rec.ID))
	}
	return rec, unlock, nil
}

// Publish writes the records of reserved VMs: they exist from then on. If a name
// is taken by now it is failure.Conflict and none exists; after any other error
// some may.
func (m *Manager) Publish(ctx context.Context, recs ...*Record) error {
	staged := make([]*durable.Staged, len(recs))
	defer func() {
		for _, f := range staged {
			f.Drop()
		}
	}()
	err := sideBySide(len(recs), func(i int) (err error) {
		staged[i], err = m.stage(recs[i])
		return err
	})
	if err != nil {
		return err
	}
	err = m.named(ctx, recs, func() error {
		for _, f := range staged {
			if err := f.Rename(); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		return err
	}
	return sideBySide(len(recs), func(i int) error {
		if err := durable.SyncDir(m.Dir(recs[i].ID)); err != nil {
			return err
		}
		return durable.IgnoreMissing(os.Remove(m.makingPath(recs[i].ID)))
	})
}

// named calls f while no other process can take the names of these VMs.
func (m *Manager) named(ctx context.Context, recs []*Record, f func() error) error {
	lock, err := filelock.Brief(ctx, m.st.Path("vms", "names.lock"))
	if err != nil {
		return err
	}
	defer lock.Unlock()
	var names []string
	for _, rec := range recs {
		names = append(names, rec.Name)
	}
	if err := m.CheckNames(ctx, names); err != nil {
		return err
	}
	return f()
}

// fsyncsAtOnce limits how many of sideBySide's calls wait for the disk.
const fsyncsAtOnce = 16

// sideBySide calls f for each number below n: file systems commit simultaneous
// fsyncs together. It returns the first error.
func sideBySide(n int, f func(i int) error) error {
	var g errgroup.Group
	g.SetLimit(fsyncsAtOnce)
	for i := range n {
		g.Go(func() error { return f(i) })
	}
	return g.Wait()
}
