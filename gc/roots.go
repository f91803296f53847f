package gc

import (
	"context"
	"errors"
	"fmt"
	"os"
	"runtime"
	"slices"
	"sync"
	"syscall"
	"time"

	"github.com/opencontainers/go-digest"
	"golang.org/x/sync/errgroup"

	"github.com/cocoonv2/cocoon/gc/garbage"
	"github.com/cocoonv2/cocoon/internal/base/account"
	"github.com/cocoonv2/cocoon/internal/base/failure"
	"github.com/cocoonv2/cocoon/internal/base/hint"
	"github.com/cocoonv2/cocoon/internal/base/spelling"
	"github.com/cocoonv2/cocoon/store"
	"github.com/cocoonv2/cocoon/store/document"
	"github.com/cocoonv2/cocoon/store/layout"
	"github.com/cocoonv2/cocoon/store/ramcache"
)

// roots reads all roots into marks. The first update reads everything, without a
// lock; the next ones, inside each window, only what changed since.
//
// Leases are read before everything else. A process writes the root that takes
// over before it releases its lease: so either the lease is still there to be
// read, or the root is.
type roots struct {
	st        *store.Store
	sources   []garbage.Source
	marks     *marks
	leases    map[string]*leaseRead
	dead      map[string]bool // leases without a living holder
	snapshots stamp
	known     map[store.ID]uint64     // snapshots that were read, with the inode of their folder
	files     map[string]stamp        // of the sources
	named     map[store.ID]string     // names of the snapshots that were read
	read      map[string]account.Root // roots of the sources by path below the store
	checked   bool                    // what snapshots named so far was checked for existence

	watch  *watch // of the folder snapshots; nil: it is listed
	listed bool   // the watch reports everything that came since the last listing
	looked int    // entries looked at, for the report
}

type leaseRead struct {
	by    uint32
	bytes int64
}

func newRoots(st *store.Store, sources []garbage.Source, m *marks, dead map[string]bool) *roots {
	return &roots{st: st, sources: sources, watch: newWatch(st.Path("snapshots")), marks: m, leases: map[string]*leaseRead{}, dead: dead, known: map[store.ID]uint64{}, files: map[string]stamp{}, named: map[store.ID]string{}, read: map[string]account.Root{}}
}

// update reads what is new. A root that cannot be read is an error, since what it
// needs is unknown then.
func (r *roots) update(ctx context.Context) error {
	for _, read := range []func(context.Context) error{r.readLeases, r.readSnapshots, r.readRecords} {
		if err := read(ctx); err != nil {
			return err
		}
	}
	return nil
}

func (r *roots) readLeases(context.Context) error {
	ids, err := r.st.Leases().IDs()
	if err != nil {
		return err
	}
	r.looked += len(ids)
	for _, id := range ids {
		if r.dead[id] {
			continue
		}
		l := r.leases[id]
		if l == nil {
			l = &leaseRead{}
		}
		h, next, err := r.st.Leases().Read(id, l.bytes)
		if err != nil {
			return err
		}
		if r.leases[id] == nil {
			l.by = r.marks.by(holder{name: "lease " + id + " (" + h.Purpose + ")"})
			r.leases[id] = l
		}
		l.bytes = next
		for _, d := range h.Digests {
			if err := r.marks.holdName(string(d), l.by, false); err != nil {
				return err
			}
		}
		for _, vm := range h.VMs {
			if err := r.marks.holdName("vm:"+vm, l.by, false); err != nil {
				return err
			}
		}
	}
	return nil
}

// readSnapshots reads the manifests that came since the last time. An existing
// folder changes only under gc.lock, which this run holds. The id of a removed
// snapshot can come back by a pull, but in a folder with another inode: as long
// as this run lasts the removed one is not unlinked.
func (r *roots) readSnapshots(ctx context.Context) error {
	if r.watch != nil && r.listed {
		if names, ok := r.watch.came(); ok {
			return r.markNew(ctx, names)
		}
		r.listed = false // until it was listed again
	}
	return r.listSnapshots(ctx)
}

// markNew marks the snapshots that came, which may be gone again.
func (r *roots) markNew(ctx context.Context, names []string) error {
	r.looked += len(names)
	ids := make([]store.ID, 0, len(names))
	for _, name := range names {
		ids = append(ids, store.ID(name))
		delete(r.known, store.ID(name)) // a listing would read it again
	}
	slices.Sort(ids)
	return r.markSnapshots(ctx, slices.Compact(ids))
}

func (r *roots) listSnapshots(ctx context.Context) error {
	if r.watch != nil { // what comes from here on is reported, what came before is listed
		if _, ok := r.watch.came(); !ok {
			r.watch.close()
			r.watch = newWatch(r.st.Path("snapshots"))
		}
	}
	at, err := stampOf(r.st.Path("snapshots"))
	if err != nil {
		return err
	}
	if at.holds(r.snapshots) {
		r.listed = true
		return nil
	}
	all, err := inodes(r.st)
	if err != nil {
		return err
	}
	r.looked += len(all)
	var fresh []store.ID
	for id, inode := range all {
		if r.known[id] != inode {
			fresh = append(fresh, id)
		}
	}
	if err := r.markSnapshots(ctx, fresh); err != nil {
		return err
	}
	r.snapshots, r.known, r.listed = at, all, true
	return nil
}

// inodes returns the inode of every snapshot folder.
func inodes(st *store.Store) (map[store.ID]uint64, error) {
	found := map[store.ID]uint64{}
	err := layout.EachEntry(st.Path("snapshots"), func(name []byte, inode uint64) {
		if spelling.ID(name) {
			found[store.ID(name)] = inode
		}
	})
	if err != nil {
		return nil, fmt.Errorf("list snapshots: %w", err)
	}
	return found, nil
}

func (r *roots) markSnapshots(ctx context.Context, ids []store.ID) error {
	var mu sync.Mutex
	g, ctx := errgroup.WithContext(ctx)
	workers := min(runtime.GOMAXPROCS(0), len(ids))
	for w := range workers {
		g.Go(func() error {
			for i := w; i < len(ids) && ctx.Err() == nil; i += workers {
				sn, err := r.st.Get(ctx, ids[i])
				if errors.Is(err, failure.NotFound) {
					continue // removed, or without a manifest: a module's
				}
				if err != nil && sn == nil {
					return err // what it needs is unknown, unless only its meta.json is lost
				}
				edges, err := edgesOf(sn)
				if err != nil {
					return err
				}
				mu.Lock()
				err = r.markSnapshot(sn, edges)
				mu.Unlock()
				if err != nil {
					return err
				}
			}
			return ctx.Err()
		})
	}
	return g.Wait()
}

// edgesOf are the objects that a snapshot needs.
func edgesOf(sn *store.Snapshot) ([]garbage.Key, error) {
	digests := document.Edges(sn)
	edges := make([]garbage.Key, 0, len(digests))
	for _, d := range digests {
		if d == "" { // an image that has none
			continue
		}
		o, ok := garbage.DigestKey(d)
		if !ok {
			return nil, failure.New(failure.Damaged, "snapshot %s names %.80q, which is no object", sn.ID, d)
		}
		edges = append(edges, o)
	}
	return edges, nil
}

func (r *roots) markSnapshot(sn *store.Snapshot, edges []garbage.Key) error {
	name := "snapshot " + string(sn.ID)
	if sn.Meta.Name != "" {
		name = fmt.Sprintf("snapshot %s (%s)", sn.Meta.Name, sn.ID)
	}
	by := r.marks.by(holder{name, string(sn.ID)})
	if ram, ok := garbage.RAMKey(ramcache.Key(sn)); ok {
		r.marks.hold(ram, by, false)
	}
	r.named[sn.ID] = sn.Meta.Name
	needed := sn.Meta.Quarantine == nil // what is missing of such a one is known, and told by verify
	for _, o := range edges {
		r.marks.hold(o, by, needed)
		if needed && r.checked {
			if err := r.present(o.Digest(), by); err != nil {
				return err
			}
		}
	}
	return nil
}

// check looks for blobs that snapshots name and the listing did not show: they
// came since, or are missing.
func (r *roots) check() error {
	for o, x := range r.marks.objects {
		if x.needed && !x.seen {
			if err := r.present(o.Digest(), x.holder); err != nil {
				return err
			}
		}
	}
	r.checked = true
	return nil
}

// present refuses a dangling root: if a snapshot names a missing blob, something
// is wrong that a sweep would make worse.
func (r *roots) present(d digest.Digest, by uint32) error {
	if exists(r.st.BlobPath(d)) || exists(r.st.ImageBlobPath(d)) {
		return nil
	}
	return failure.Hint(failure.New(failure.Damaged, "%s names blob %s, which is missing", r.marks.holders[by].name, d),
		hint.VerifyAll.Of()+"; remove the snapshot or put the blob back")
}

func exists(path string) bool {
	_, err := os.Lstat(path)
	return err == nil
}

// readRecords reads the roots of the sources that are new or were rewritten.
func (r *roots) readRecords(context.Context) error {
	for _, src := range r.sources {
		if src.Files == nil {
			continue
		}
		files, err := src.Files()
		if err != nil {
			return err
		}
		for _, path := range files {
			if err := r.readRecord(src, path); err != nil {
				return err
			}
		}
	}
	return nil
}

func (r *roots) readRecord(src garbage.Source, path string) error {
	r.looked++
	at, err := stampOf(path)
	if errors.Is(err, os.ErrNotExist) || errors.Is(err, syscall.ENOTDIR) {
		return nil
	}
	if err != nil {
		return err
	}
	if at.holds(r.files[path]) {
		return nil
	}
	root, err := src.Read(path)
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	if err := r.markRoot(root); err != nil {
		return err
	}
	r.noteRead(path, root)
	r.files[path] = at
	return nil
}

func (r *roots) markRoot(root garbage.Root) error {
	by := r.marks.by(holder{name: root.String()})
	var objects []string
	if root.VM != "" {
		objects = append(objects, "vm:"+root.VM)
	}
	for _, id := range root.Snapshots {
		objects = append(objects, "snapshot:"+id)
	}
	for _, d := range root.Digests {
		objects = append(objects, string(d))
	}
	for _, o := range objects {
		if err := r.marks.holdName(o, by, false); err != nil {
			return err
		}
	}
	return nil
}

// stamp changes whenever a file is replaced or an entry of a folder comes or
// goes, unless two changes fall into one tick of the file system's clock: a stamp
// taken right after a change proves nothing.
type stamp struct {
	inode, links, bytes uint64
	mtime, ctime        int64 // ns
	taken               time.Time
}

// settled is how old a change must be for its stamp to prove that nothing came
// after it: longer than any tick of a kernel's clock.
const settled = 20 * time.Millisecond

func stampOf(path string) (stamp, error) {
	var st syscall.Stat_t
	now := time.Now()
	if err := syscall.Lstat(path, &st); err != nil {
		return stamp{}, &os.PathError{Op: "stat", Path: path, Err: err}
	}
	return stamp{st.Ino, uint64(st.Nlink), uint64(st.Size), st.Mtim.Nano(), st.Ctim.Nano(), now}, nil
}

// holds reports whether what was read under the earlier stamp is still
// everything.
func (s stamp) holds(earlier stamp) bool {
	if earlier.taken.IsZero() {
		return false
	}
	age := earlier.taken.UnixNano() - max(earlier.mtime, earlier.ctime)
	earlier.taken = s.taken
	return s == earlier && time.Duration(age) > settled
}
