package store

import (
	"bufio"
	"bytes"
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"strings"

	"github.com/opencontainers/go-digest"

	"github.com/cocoonv2/cocoon/internal/failure"
	"github.com/cocoonv2/cocoon/internal/filelock"
)

// Lease says what this process holds. Its file leases/<id> is locked for as
// long as the process lives, so a killed holder's lease can be reaped at once;
// no age is involved. It needs no durability: a power cut kills every holder.
type Lease struct {
	id   string
	st   *Store
	lock *filelock.Lock
}

// leaseLimit bounds what is read of one lease file, bytes.
const leaseLimit = 64 << 20

func newID() string {
	var b [16]byte
	rand.Read(b[:])
	return hex.EncodeToString(b[:])
}

// Lease makes and locks a new lease; purpose is shown to operators.
func (s *Store) Lease(ctx context.Context, purpose string) (*Lease, error) {
	l := &Lease{id: newID(), st: s}
	err := s.shared(ctx, func() (err error) {
		l.lock, err = filelock.TryExclusive(s.Path("leases", l.id))
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("make lease: %w", err)
	}
	return l, l.append("for " + strings.ReplaceAll(purpose, "\n", " "))
}

// shared runs f under the shared store lock: the collector is not deciding now.
func (s *Store) shared(ctx context.Context, f func() error) error {
	lock, err := s.locks.Shared(ctx)
	if err != nil {
		return err
	}
	return errors.Join(f(), lock.Unlock())
}

// ID names the lease and its ingest folder.
func (l *Lease) ID() string { return l.id }

// File is the locked descriptor; a child that inherits it keeps the lease.
func (l *Lease) File() *os.File { return l.lock.File() }

// Hold adds digests. Call it before looking whether they exist.
func (l *Lease) Hold(ctx context.Context, ds ...digest.Digest) error {
	lines := make([]string, 0, len(ds))
	for _, d := range ds {
		if err := d.Validate(); err != nil {
			return fmt.Errorf("hold %q: %w", d, err)
		}
		lines = append(lines, string(d))
	}
	return l.hold(ctx, lines...)
}

// HoldSnapshot keeps a snapshot, and so everything it names, from rm and gc.
func (l *Lease) HoldSnapshot(ctx context.Context, id ID) error {
	return l.hold(ctx, "snapshot:"+string(id))
}

// HoldVM keeps a VM folder without a record, i.e. one being made, from gc.
func (l *Lease) HoldVM(ctx context.Context, id string) error { return l.hold(ctx, "vm:"+id) }

func (l *Lease) hold(ctx context.Context, lines ...string) error {
	if len(lines) == 0 {
		return nil
	}
	return l.st.shared(ctx, func() error { return l.append(lines...) })
}

func (l *Lease) append(lines ...string) error {
	f := l.lock.File()
	if _, err := f.Seek(0, 2); err != nil {
		return err
	}
	if _, err := f.WriteString(strings.Join(lines, "\n") + "\n"); err != nil {
		return fmt.Errorf("write lease %s: %w", l.id, err)
	}
	return nil
}

// Release lets go of everything. The lease's ingest folder, if any, goes too.
// A second call does nothing.
func (l *Lease) Release() error {
	ingest := os.RemoveAll(l.st.Path("ingest", l.id))
	err := os.Remove(l.st.Path("leases", l.id))
	if errors.Is(err, os.ErrNotExist) {
		err = nil
	}
	return errors.Join(ingest, err, l.lock.Unlock())
}

// Holding is what one lease file says.
type Holding struct {
	Lease     string
	Purpose   string
	Digests   []digest.Digest
	Snapshots []ID
	VMs       []string
}

// parseLease reads lease lines; a torn last line (killed holder) is ignored,
// anything else that is unknown is an error: gc then sweeps nothing.
func parseLease(id string, b []byte) (Holding, error) {
	h := Holding{Lease: id}
	if i := bytes.LastIndexByte(b, '\n'); i >= 0 {
		b = b[:i+1]
	} else {
		b = nil
	}
	sc := bufio.NewScanner(bytes.NewReader(b))
	for sc.Scan() {
		kind, rest, _ := strings.Cut(sc.Text(), ":")
		switch {
		case strings.HasPrefix(sc.Text(), "for "):
			h.Purpose = sc.Text()[4:]
		case kind == "snapshot":
			h.Snapshots = append(h.Snapshots, ID(rest))
		case kind == "vm":
			h.VMs = append(h.VMs, rest)
		default:
			d, err := digest.Parse(sc.Text())
			if err != nil {
				return h, failure.New(failure.Damaged, "lease %s: line %q", id, sc.Text())
			}
			h.Digests = append(h.Digests, d)
		}
	}
	return h, sc.Err()
}

// Holdings reads every lease file, those of dead holders too; under the
// exclusive lock after ReapLeases only living ones are left.
func (s *Store) Holdings(ctx context.Context) ([]Holding, error) {
	entries, err := os.ReadDir(s.Path("leases"))
	if err != nil {
		return nil, fmt.Errorf("read leases: %w", err)
	}
	var all []Holding
	for _, e := range entries {
		b, err := readSmall(s.Path("leases", e.Name()), leaseLimit)
		if errors.Is(err, os.ErrNotExist) {
			continue
		}
		if err != nil {
			return nil, fmt.Errorf("read lease: %w", err)
		}
		h, err := parseLease(e.Name(), b)
		if err != nil {
			return nil, err
		}
		all = append(all, h)
	}
	return all, nil
}

// LeaseHoldings reads the leases whose holder lives.
func (s *Store) LeaseHoldings(ctx context.Context) ([]Holding, error) {
	all, err := s.Holdings(ctx)
	if err != nil {
		return nil, err
	}
	var live []Holding
	for _, h := range all {
		if s.leaseLives(h.Lease) {
			live = append(live, h)
		}
	}
	return live, nil
}

// leaseLives asks the kernel: a lock that can be had has no living holder.
func (s *Store) leaseLives(id string) bool {
	path := s.Path("leases", id)
	if _, err := os.Stat(path); err != nil {
		return false
	}
	lock, err := filelock.TryExclusive(path)
	if err != nil {
		return errors.Is(err, filelock.ErrLocked)
	}
	lock.Unlock()
	return false
}
