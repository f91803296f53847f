package store

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"

	"github.com/opencontainers/go-digest"
	"golang.org/x/sys/unix"

	"github.com/cocoonv2/cocoon/internal/base/durable"
	"github.com/cocoonv2/cocoon/internal/base/failure"
	"github.com/cocoonv2/cocoon/internal/base/filelock"
	"github.com/cocoonv2/cocoon/internal/base/spelling"
)

// Lease says what this process holds. Its file leases/<id> is locked for as
// long as the process lives, so a killed holder's lease can be reaped at once;
// no age is involved. It needs no durability: a power cut kills every holder.
type Lease struct {
	id      string
	purpose string
	st      *Store
	lock    *filelock.Lock // nil where no file could be made

	reads bool           // it may keep the collector out instead of writing
	out   *filelock.Lock // gc.lock, shared: the collector is kept out
}

// leaseLimit bounds a lease file, written and read, bytes: of some 900,000
// digests.
const leaseLimit = 64 << 20

func newID() string {
	var b [16]byte
	rand.Read(b[:])
	return hex.EncodeToString(b[:])
}

// Lease makes and locks a new lease; purpose is shown to operators.
func (s *Store) Lease(ctx context.Context, purpose string) (*Lease, error) {
	l := &Lease{id: newID(), purpose: strings.ReplaceAll(purpose, "\n", " "), st: s}
	err := s.shared(ctx, func() (err error) {
		// It waits: whoever asks whether the lease lives holds it for an instant.
		l.lock, err = filelock.Exclusive(ctx, s.Path("leases", l.id))
		return err
	})
	if err == nil {
		if err = l.append("for " + l.purpose); err != nil {
			err = errors.Join(err, l.Release())
		}
	}
	if err != nil {
		return nil, fmt.Errorf("make lease: %w", err)
	}
	return l, nil
}

// shared runs f under the shared store lock: the collector is not deciding now.
func (s *Store) shared(ctx context.Context, f func() error) error {
	lock, err := s.locks.Shared(ctx)
	if err != nil {
		return err
	}
	return errors.Join(f(), lock.Unlock())
}

// exclusive runs f under the store lock alone: nobody leases, publishes, removes
// or decides meanwhile.
func (s *Store) exclusive(ctx context.Context, f func() error) error {
	lock, err := s.locks.Exclusive(ctx)
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

// HoldEdges keeps everything that a published snapshot names, and gives the
// snapshot as it is then. Its manifest may be replaced while this looks: what is
// kept is what the answer names.
func (l *Lease) HoldEdges(ctx context.Context, id ID) (*Snapshot, error) {
	sn, err := l.st.Get(ctx, id)
	for err == nil {
		if err := l.Hold(ctx, Edges(sn)...); err != nil {
			return nil, err
		}
		if l.st.Current(sn) {
			return sn, nil
		}
		sn, err = l.st.Get(ctx, id)
	}
	return nil, err
}

// HoldVM keeps a VM folder without a record, i.e. one being made, from gc.
func (l *Lease) HoldVM(ctx context.Context, id string) error { return l.hold(ctx, "vm:"+id) }

func (l *Lease) hold(ctx context.Context, lines ...string) error {
	if len(lines) == 0 || l.out != nil {
		return nil
	}
	err := l.st.shared(ctx, func() error { return l.append(lines...) })
	if l.reads && durable.CannotWrite(err) {
		return l.keepOut(ctx)
	}
	return err
}

func (l *Lease) append(lines ...string) error {
	f := l.lock.File()
	end, err := f.Seek(0, io.SeekEnd)
	if err != nil {
		return err
	}
	text := strings.Join(lines, "\n") + "\n"
	if end+int64(len(text)) > leaseLimit {
		return failure.New(failure.NoSpace, "lease %s (%s) would have %d bytes, at most %d can be read back", l.id, l.purpose, end+int64(len(text)), leaseLimit)
	}
	if _, err := f.WriteString(text); err != nil {
		// Half a line would make nonsense of the next one.
		return fmt.Errorf("write lease %s: %w", l.id, errors.Join(err, f.Truncate(end)))
	}
	return nil
}

// Release lets go of everything. The lease's ingest folder, if any, goes too.
// A second call does nothing.
func (l *Lease) Release() error {
	if l.lock == nil {
		return l.out.Unlock()
	}
	ingest := os.RemoveAll(l.st.Path("ingest", l.id))
	err := os.Remove(l.st.Path("leases", l.id))
	if errors.Is(err, os.ErrNotExist) {
		err = nil
	}
	return errors.Join(ingest, err, l.lock.Unlock(), l.out.Unlock())
}

// Holding is what one lease file says.
type Holding struct {
	Lease     string
	Purpose   string
	Digests   []digest.Digest
	Snapshots []ID
	VMs       []string
}

// parseLease reads lease lines into h; a torn last line (killed holder, or one
// that is writing) is left for later: n is what was read. Anything else that is
// unknown is an error: gc then sweeps nothing.
func parseLease(h *Holding, b []byte) (n int, err error) {
	for n < len(b) {
		end := bytes.IndexByte(b[n:], '\n')
		if end < 0 {
			break
		}
		if err := h.take(string(b[n : n+end])); err != nil {
			return n, err
		}
		n += end + 1
	}
	return n, nil
}

func (h *Holding) take(line string) error {
	kind, rest, _ := strings.Cut(line, ":")
	switch {
	case strings.HasPrefix(line, "for "):
		h.Purpose = line[4:]
	case kind == "snapshot":
		h.Snapshots = append(h.Snapshots, ID(rest))
		return checkID("lease "+h.Lease+": snapshot", rest)
	case kind == "vm":
		h.VMs = append(h.VMs, rest)
		return checkID("lease "+h.Lease+": VM", rest)
	default:
		d, err := digest.Parse(line)
		if err != nil {
			return failure.New(failure.Damaged, "lease %s: line %.80q", h.Lease, line)
		}
		h.Digests = append(h.Digests, d)
	}
	return nil
}

// Leases lists the leases that there are, of living and of dead holders.
func (s *Store) Leases() ([]string, error) {
	entries, err := os.ReadDir(s.Path("leases"))
	if err != nil {
		return nil, fmt.Errorf("read leases: %w", err)
	}
	var ids []string
	for _, e := range entries {
		ids = append(ids, e.Name())
	}
	return ids, nil
}

// ReadLease reads what a lease says from byte from on; next is where to go on
// when its holder has written more. A lease that is gone says nothing.
func (s *Store) ReadLease(id string, from int64) (h Holding, next int64, err error) {
	h = Holding{Lease: id}
	f, err := os.OpenFile(s.Path("leases", id), os.O_RDONLY|unix.O_NOFOLLOW, 0)
	if errors.Is(err, os.ErrNotExist) {
		return h, from, nil
	}
	if err != nil {
		return h, from, fmt.Errorf("read lease: %w", err)
	}
	defer f.Close()
	b, err := io.ReadAll(io.NewSectionReader(f, from, leaseLimit+1-from))
	if err != nil {
		return h, from, fmt.Errorf("read lease %s: %w", id, err)
	}
	if from+int64(len(b)) > leaseLimit {
		return h, from, failure.New(failure.Damaged, "lease %s is longer than %d bytes", id, leaseLimit)
	}
	n, err := parseLease(&h, b)
	return h, from + int64(n), err
}

// LeaseHoldings reads the leases whose holder lives.
func (s *Store) LeaseHoldings(ctx context.Context) ([]Holding, error) {
	ids, err := s.Leases()
	if err != nil {
		return nil, err
	}
	var live []Holding
	for _, id := range ids {
		lives, err := s.LeaseLives(id)
		if err != nil {
			return nil, err
		}
		if !lives {
			continue
		}
		h, _, err := s.ReadLease(id, 0)
		if err != nil {
			return nil, err
		}
		live = append(live, h)
	}
	return live, ctx.Err()
}

// checkID refuses what no snapshot or VM is called.
func checkID(what, id string) error {
	if !spelling.ID(id) {
		return failure.New(failure.Damaged, "%s %.80q", what, id)
	}
	return nil
}
