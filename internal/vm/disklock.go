package vm

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"github.com/cocoonv2/cocoon/internal/failure"
	"github.com/cocoonv2/cocoon/internal/filelock"
	"github.com/cocoonv2/cocoon/internal/patience"
)

// diskLocks are the locks on a VM's seat and its writable disks. The VMM inherits
// them, so each is held for exactly as long as the VMM lives, whoever started it and
// whatever becomes of its own: Cloud Hypervisor gives its record locks up when
// it is captured live and takes them back at the next boot only.
type diskLocks []*filelock.Lock

// takeSeat locks the seat and the disks of a VM that is about to be launched. A VMM
// that has ended lets go of them when the last of its threads has; one that stays
// locked belongs to a VMM that still lives.
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
	for _, d := range rec.Disks {
		if d.File == "" {
			continue
		}
		l, err := filelock.ExclusiveExisting(ctx, filepath.Join(m.Dir(rec.ID), d.File))
		if errors.Is(err, failure.Busy) {
			err = failure.Hint(failure.New(failure.Conflict, "disk %d of VM %s is in use by another VMM", d.Index, rec.Name),
				"end the process that has the file open, see: fuser "+filepath.Join(m.Dir(rec.ID), d.File))
		}
		if err != nil {
			locks.detach()
			return nil, fmt.Errorf("lock disk: %w", err)
		}
		locks = append(locks, l)
	}
	return locks, nil
}

func (l diskLocks) files() []*os.File {
	var out []*os.File
	for _, lock := range l {
		out = append(out, lock.File())
	}
	return out
}

// detach closes our descriptors: the locks are the VMM's from now on, nobody's
// when none was started.
func (l diskLocks) detach() {
	for _, lock := range l {
		lock.Detach() // nothing was written through it
	}
}
