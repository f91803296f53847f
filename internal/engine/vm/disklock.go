package vm

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"github.com/opencontainers/go-digest"

	"github.com/cocoonv2/cocoon/chsnap"
	"github.com/cocoonv2/cocoon/internal/base/failure"
	"github.com/cocoonv2/cocoon/internal/base/filelock"
	"github.com/cocoonv2/cocoon/internal/base/patience"
)

// diskLocks are the locks on a VM's seat and its writable disks. The VMM inherits
// them, so each is held for exactly as long as the VMM lives, whichever process
// started it and whatever happens to the VMM's own: Cloud Hypervisor releases its
// record locks in a live capture and takes them again only at the next boot.
type diskLocks []*filelock.Lock

// takeSeat locks the seat and the disks of a VM that is about to be launched. An
// ended VMM releases them with its last thread; one that stays locked belongs to
// a VMM that still lives.
func (m *Manager) takeSeat(ctx context.Context, rec *Record) (diskLocks, error) {
	ctx, cancel := patience.Bound(ctx, m.o.Patience.Call())
	defer cancel()
	seat, err := filelock.Exclusive(ctx, m.seatPath(rec.ID))
	if errors.Is(err, failure.Busy) {
		err = failure.Hint(failure.New(failure.Conflict, "VM %s is run by another VMM", rec.Name),
			"end the process that has the file open, see: fuser "+m.seatPath(rec.ID))
	}
	if err != nil {
		return nil, fmt.Errorf("lock the VM: %w", err)
	}
	locks := diskLocks{seat}
	for _, take := range m.fileLocks(rec) {
		l, err := take(ctx)
		if err != nil {
			locks.detach()
			return nil, err
		}
		locks = append(locks, l)
	}
	return locks, nil
}

// fileLocks take the lock on each disk and image of a VM.
func (m *Manager) fileLocks(rec *Record) (all []func(context.Context) (*filelock.Lock, error)) {
	for _, d := range rec.Disks {
		if d.File != "" {
			all = append(all, func(ctx context.Context) (*filelock.Lock, error) { return m.lockDisk(ctx, rec, d) })
		}
	}
	for _, d := range standsOn(rec) {
		all = append(all, func(ctx context.Context) (*filelock.Lock, error) { return m.lockImage(ctx, rec, d) })
	}
	return all
}

func (m *Manager) lockDisk(ctx context.Context, rec *Record, d Disk) (*filelock.Lock, error) {
	path := filepath.Join(m.Dir(rec.ID), d.File)
	l, err := filelock.ExclusiveExisting(ctx, path)
	if errors.Is(err, failure.Busy) {
		err = failure.Hint(failure.New(failure.Conflict, "disk %d of VM %s is in use by another VMM", d.Index, rec.Name),
			"end the process that has the file open, see: fuser "+path)
	}
	if err != nil {
		return nil, fmt.Errorf("lock disk: %w", err)
	}
	return l, nil
}

func (m *Manager) lockImage(ctx context.Context, rec *Record, d digest.Digest) (*filelock.Lock, error) {
	l, err := filelock.SharedExisting(ctx, m.images.Path(d))
	if errors.Is(err, os.ErrNotExist) {
		err = failure.New(failure.Damaged, "VM %s uses image %s, which is missing", rec.Name, d)
	}
	if err != nil {
		return nil, fmt.Errorf("lock image: %w", err)
	}
	return l, nil
}

func (l diskLocks) files() []*os.File {
	var out []*os.File
	for _, lock := range l {
		out = append(out, lock.File())
	}
	return out
}

// detach closes our descriptors: from now on the VMM holds the locks, or nobody
// if none was started.
func (l diskLocks) detach() {
	for _, lock := range l {
		lock.Detach() // nothing was written through it
	}
}

// checkDisks refuses disks that the VMM would not open: guests write anything,
// and what looks like an image of another format is not taken for raw. The VMM's
// own error names neither the disk nor the cause.
func (m *Manager) checkDisks(rec *Record) error {
	for _, d := range rec.Disks {
		if d.File == "" {
			continue
		}
		if err := chsnap.CheckRaw(filepath.Join(m.Dir(rec.ID), d.File)); err != nil {
			return fmt.Errorf("disk %d: %w", d.Index, err)
		}
	}
	return nil
}
