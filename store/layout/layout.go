// Package layout manages the root folder of a store: which folders it has, and
// who may make them; it finds, creates, checks and repairs it before its contents
// are trusted. It knows no snapshot and opens no blob.
//
// A folder is a store once it has the file format, which is made last, so that a
// process that dies before leaves a folder in which a store can still be created.
// Of the folders below it, those in Truth hold what nobody can recreate: if one
// that existed is missing, a volume is not mounted or it was lost, and Open
// refuses. All others are made as needed.
//
// Open also refuses a folder that others could enter or change, one on a network
// file system, and an unknown format. Remake (what is missing) and MakePrivate
// (what is open to others) repair it on request; neither touches a folder that is
// no store.
package layout

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"sync"

	"golang.org/x/sys/unix"

	"github.com/cocoonv2/cocoon/internal/base/failure"
	"github.com/cocoonv2/cocoon/internal/base/filelock"
	"github.com/cocoonv2/cocoon/internal/base/owner"
	"github.com/cocoonv2/cocoon/internal/base/private"
	"github.com/cocoonv2/cocoon/internal/base/spelling"
)

// Versions of the layout, as the file format says.
const (
	Plain     = 1 // what a store begins as
	Encrypted = 2 // snapshots are encrypted here
)

// Names of the folder of links, one for each name of a snapshot.
const Names = "names"

// Folders of a store, below its root; gc has a collector for each.
func Folders() []string {
	return []string{
		"snapshots", "blobs/sha256", "images/blobs/sha256", "vms", "ingest",
		"leases", "pins", "trash", Names, "cache/memory", "cache/fingerprints", "journals", "network",
	}
}

// Layout is a folder that is a store.
type Layout struct {
	root string

	ownerMu sync.Mutex
	owner   owner.Mark // once it was asked for
}

// Open checks the store at root, which may be a link to it, and creates it first
// if requested. failure.NotFound if there is none.
func Open(ctx context.Context, root string, create bool) (*Layout, error) {
	root, err := resolve(root)
	if err != nil {
		return nil, err
	}
	l := &Layout{root: root}
	if err := l.find(ctx, create); err != nil {
		return nil, err
	}
	if _, err := l.Version(); err != nil { // before any advice to change modes
		return nil, err
	}
	for _, path := range guarded(root) {
		err := checkFolder(path, private.Others)
		if errors.Is(err, failure.Usage) {
			err = failure.Hint(err, insteadOf(path))
		}
		if err != nil {
			return nil, err
		}
	}
	return l, l.makeFolders(ctx)
}

// Root is the folder itself.
func (l *Layout) Root() string { return l.root }

// Path joins elements below the root.
func (l *Layout) Path(elem ...string) string {
	return filepath.Join(append([]string{l.root}, elem...)...)
}

// ID of a snapshot: 32 hex digits, the name of its folder.
type ID = spelling.SnapshotID

// locks are the gate and the store lock.
func (l *Layout) locks() filelock.Pair {
	return filelock.Pair{Gate: l.Path("gate.lock"), Store: l.Path("store.lock")}
}

// Shared runs f under the shared store lock: no collector is deciding now.
func (l *Layout) Shared(ctx context.Context, f func() error) error {
	lock, err := l.locks().Shared(ctx)
	if err != nil {
		return err
	}
	return errors.Join(f(), lock.Unlock())
}

// Exclusive runs f under the exclusive store lock: nothing leases, publishes,
// removes or decides meanwhile.
func (l *Layout) Exclusive(ctx context.Context, f func() error) error {
	lock, err := l.locks().Exclusive(ctx)
	if err != nil {
		return err
	}
	return errors.Join(f(), lock.Unlock())
}

// networkFS are file systems whose locks or renames do not hold what is
// promised here, by statfs magic (linux/magic.h).
func networkFS(magic int64) string {
	return map[int64]string{
		0x6969: "NFS", 0x01021997: "9p", 0x65735546: "FUSE", 0x517b: "SMB", 0xff534d42: "CIFS", 0xfe534d42: "SMB2",
		0x5346414f: "AFS", 0x6b414653: "AFS", 0x00c36400: "Ceph", 0x73757245: "Coda", 0x0bd00bd0: "Lustre", 0x47504653: "GPFS",
	}[magic&0xffffffff]
}

func checkFileSystem(root string) error {
	var fs unix.Statfs_t
	if err := unix.Statfs(root, &fs); err != nil {
		return fmt.Errorf("open store %s: %w", root, err)
	}
	if name := networkFS(int64(fs.Type)); name != "" {
		return failure.Hint(failure.New(failure.Incompatible, "store %s is on %s, which does not keep locks and renames", root, name), "use a local file system")
	}
	return nil
}
