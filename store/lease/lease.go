// Package lease records what living processes hold in a store, so that no
// collector and no removal takes it.
//
// A lease is a file leases/<id>, locked for as long as its holder lives, so the
// kernel shows at once when a holder was killed; age plays no part. Its lines are
// digests of blobs, ids of snapshots, and ids of VMs being made. They are written
// under the shared store lock, so never while a collector decides, and a digest
// is written before its blob is looked for. The folder ingest/<id> belongs to the
// holder and goes with the lease.
//
// A process that only reads published data, and cannot write a lease because the
// disk is full or read-only, keeps the collector out instead: read.go.
package lease

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"

	"github.com/opencontainers/go-digest"
	"golang.org/x/sys/unix"

	"github.com/cocoonv2/cocoon/internal/base/durable"
	"github.com/cocoonv2/cocoon/internal/base/failure"
	"github.com/cocoonv2/cocoon/internal/base/filelock"
	"github.com/cocoonv2/cocoon/internal/base/spelling"
	"github.com/cocoonv2/cocoon/store/layout"
)

// Leases are those of one store.
type Leases struct{ at *layout.Layout }

// Of a store.
func Of(at *layout.Layout) *Leases { return &Leases{at} }

// Lease says what this process holds. It needs no durability: a power cut kills
// every holder.
type Lease struct {
	id      string
	purpose string
	at      *layout.Layout
	lock    *filelock.Lock // nil where no file could be made

	reads bool           // it may keep the collector out instead of writing
	out   *filelock.Lock // gc.lock, shared: the collector is kept out
}

// limit bounds a lease file, written and read, bytes: of some 900,000
// digests.
const limit = 64 << 20

func (ls *Leases) begin(purpose string, reads bool) *Lease {
	return &Lease{id: spelling.NewID(), purpose: strings.ReplaceAll(purpose, "\n", " "), at: ls.at, reads: reads}
}

// Make makes and locks a new lease; purpose is shown to operators.
func (ls *Leases) Make(ctx context.Context, purpose string) (*Lease, error) {
	l := ls.begin(purpose, false)
	err := ls.at.Shared(ctx, func() (err error) {
		// It waits: a process that checks whether the lease lives holds it for an
		// instant.
		l.lock, err = filelock.Exclusive(ctx, ls.at.Path("leases", l.id))
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
func (l *Lease) HoldSnapshot(ctx context.Context, id layout.ID) error {
	return l.hold(ctx, "snapshot:"+string(id))
}

// HoldVM keeps a VM folder without a record, i.e. one being made, from gc.
func (l *Lease) HoldVM(ctx context.Context, id string) error { return l.hold(ctx, "vm:"+id) }

func (l *Lease) hold(ctx context.Context, lines ...string) error {
	if len(lines) == 0 || l.out != nil {
		return nil
	}
	err := l.at.Shared(ctx, func() error { return l.append(lines...) })
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
	if end+int64(len(text)) > limit {
		return failure.New(failure.NoSpace, "lease %s (%s) would have %d bytes, at most %d can be read back", l.id, l.purpose, end+int64(len(text)), limit)
	}
	if _, err := f.WriteString(text); err != nil {
		// Half a line would make nonsense of the next one.
		return fmt.Errorf("write lease %s: %w", l.id, errors.Join(err, f.Truncate(end)))
	}
	return nil
}

// Release releases everything. The lease's ingest folder, if any, is removed too.
// A second call does nothing.
func (l *Lease) Release() error {
	if l.lock == nil {
		return l.out.Unlock()
	}
	ingest := os.RemoveAll(l.at.Path("ingest", l.id))
	err := os.Remove(l.at.Path("leases", l.id))
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
	Snapshots []layout.ID
	VMs       []string
}

// HeldBy returns the purpose of another lease that holds a snapshot, by its id or
// by the digest of its config, "" if there is none.
func HeldBy(live []Holding, own string, id layout.ID, config digest.Digest) string {
	for _, h := range live {
		if h.Lease != own && (slices.Contains(h.Snapshots, id) || slices.Contains(h.Digests, config)) {
			return h.Purpose
		}
	}
	return ""
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
		h.Snapshots = append(h.Snapshots, layout.ID(rest))
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

// IDs lists all leases, of living and of dead holders.
func (ls *Leases) IDs() ([]string, error) {
	entries, err := os.ReadDir(ls.at.Path("leases"))
	if err != nil {
		return nil, fmt.Errorf("read leases: %w", err)
	}
	var ids []string
	for _, e := range entries {
		ids = append(ids, e.Name())
	}
	return ids, nil
}

// Read reads a lease from byte from on; next is where to continue once its holder
// has written more. A missing lease says nothing.
func (ls *Leases) Read(id string, from int64) (h Holding, next int64, err error) {
	h = Holding{Lease: id}
	f, err := os.OpenFile(ls.at.Path("leases", id), os.O_RDONLY|unix.O_NOFOLLOW, 0)
	if errors.Is(err, os.ErrNotExist) {
		return h, from, nil
	}
	if err != nil {
		return h, from, fmt.Errorf("read lease: %w", err)
	}
	defer f.Close()
	b, err := io.ReadAll(io.NewSectionReader(f, from, limit+1-from))
	if err != nil {
		return h, from, fmt.Errorf("read lease %s: %w", id, err)
	}
	if from+int64(len(b)) > limit {
		return h, from, failure.New(failure.Damaged, "lease %s is longer than %d bytes", id, limit)
	}
	n, err := parseLease(&h, b)
	return h, from + int64(n), err
}

// Live reads the leases whose holder lives.
func (ls *Leases) Live(ctx context.Context) ([]Holding, error) {
	ids, err := ls.IDs()
	if err != nil {
		return nil, err
	}
	var live []Holding
	for _, id := range ids {
		lives, err := ls.Lives(id)
		if err != nil {
			return nil, err
		}
		if !lives {
			continue
		}
		h, _, err := ls.Read(id, 0)
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

// Lives asks the kernel whether a lease has a living holder. The answer is exact
// while nobody can lease, as in a trash.Window; otherwise a lease that is just
// being made may look dead.
func (ls *Leases) Lives(id string) (bool, error) {
	return filelock.Held(ls.at.Path("leases", id))
}

// Window is the right to decide what goes, which only the holder of the store lock
// has: a trash.Window.
type Window interface {
	Discard(path string) error
}

// Reap removes a lease whose holder is dead, with its ingest folder; false if the
// holder lives. It needs exclusive access to the store, which the window proves.
func (ls *Leases) Reap(w Window, id string) (bool, error) {
	lives, err := ls.Lives(id)
	if lives || err != nil {
		return false, err
	}
	ingest := ls.at.Path("ingest", id)
	if _, err := os.Lstat(ingest); err == nil {
		if err := w.Discard(ingest); err != nil {
			return false, err
		}
	}
	if err := os.Remove(ls.at.Path("leases", id)); err != nil && !errors.Is(err, os.ErrNotExist) {
		return false, err
	}
	return true, nil
}
