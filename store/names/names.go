// Package names finds snapshots by name. A snapshot's name is in its meta.json.
// The folder names ensures that no two have the same: it has a symbolic link for
// each name,
//
//	names/NAME → ../snapshots/ID
//
// so the kernel decides in one step whether a name is free, and which snapshot
// has it.
//
//  1. A link is durable before its snapshot is published, or before its meta.json
//     has the new name; it is removed after the snapshot, or the old name, is
//     gone. So there may be too many links, never too few.
//  2. A link is stale if its snapshot is gone, cannot be read, or has another
//     name. A stale link is not binding; a command that wants the name takes it
//     over. One whose snapshot cannot be read is not removed, since repair needs
//     it.
//  3. Links are made and removed under names.lock, and read without it.
//  4. wholeMark says that every snapshot with a name has its link. It is missing
//     in stores of earlier programs, which kept a file cache/names instead and
//     recreate it if used again. Then the snapshots are listed once.
//
// A snapshot that was put there by hand gets its link when it is looked up by
// name, or from gc or repair.
//
// The store says what a snapshot is called ([Carried]); this package only
// prevents two from having the same name.
package names

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/cocoonv2/cocoon/internal/base/durable"
	"github.com/cocoonv2/cocoon/internal/base/failure"
	"github.com/cocoonv2/cocoon/internal/base/filelock"
	"github.com/cocoonv2/cocoon/internal/base/parallel"
	"github.com/cocoonv2/cocoon/internal/base/spelling"
	"github.com/cocoonv2/cocoon/store/layout"
)

const (
	// wholeMark is a link too: what loses the links of a store, such as a copy of
	// plain files only, loses the mark with them.
	wholeMark = ".whole"
	linkStart = "../snapshots/"
)

// Carried returns the name of a snapshot: failure.NotFound if it is gone,
// failure.Damaged if its name cannot be read.
type Carried func(layout.ID) (string, error)

// Names of the snapshots of one store.
type Names struct {
	at      *layout.Layout
	carried Carried
}

// Of a store.
func Of(at *layout.Layout, carried Carried) *Names { return &Names{at, carried} }

// formerNames are the files of earlier programs.
func (n *Names) formerNames() []string {
	return []string{n.at.Path("cache", "names"), n.at.Path("cache", "names.voucher")}
}

// Lock makes a check of names and what follows from it one step.
func (n *Names) Lock(ctx context.Context, f func() error) error {
	lock, err := filelock.Brief(ctx, n.at.Path("names.lock"))
	if err != nil {
		return err
	}
	return errors.Join(f(), lock.Unlock())
}

// linked gives the snapshot to which the link of a name leads; "" where there is
// no link, or something else in its place.
func (n *Names) linked(name string) (layout.ID, error) {
	to, err := os.Readlink(n.at.Path(layout.Names, name))
	if errors.Is(err, os.ErrNotExist) || errors.Is(err, unix.EINVAL) {
		return "", nil
	}
	if err != nil {
		return "", fmt.Errorf("look for name %q: %w", name, err)
	}
	id, ok := strings.CutPrefix(to, linkStart)
	if !ok || !spelling.ID(id) {
		return "", nil
	}
	return layout.ID(id), nil
}

// Holder returns the snapshot that has a name, by its link; "" if there is none,
// or a stale one.
func (n *Names) Holder(name string) (layout.ID, error) {
	if spelling.CheckSnapshotName(name) != nil {
		return "", nil
	}
	id, err := n.linked(name)
	if err != nil || id == "" {
		return "", err
	}
	carries, err := n.carries(id, name)
	if errors.Is(err, failure.Damaged) {
		return "", nil
	}
	if err != nil || !carries {
		return "", err
	}
	return id, nil
}

// carries says whether a snapshot has the name. One that is gone has none; of one
// that is damaged nobody knows.
func (n *Names) carries(id layout.ID, name string) (bool, error) {
	has, err := n.carried(id)
	if errors.Is(err, failure.NotFound) {
		return false, nil
	}
	return err == nil && has == name, err
}

// Find finds the snapshot of exactly this name; "" if there is none as far as the
// links say.
func (n *Names) Find(ctx context.Context, name string) (layout.ID, error) {
	id, err := n.Holder(name)
	if err != nil || id != "" || n.Whole() {
		return id, err
	}
	return n.findInFiles(ctx, name)
}

// findInFiles is find by the snapshots themselves, before it is said that there is
// no such name. One that had no link gets it, if the store can be written.
func (n *Names) findInFiles(ctx context.Context, name string) (layout.ID, error) {
	all, err := n.inFiles()
	if err != nil {
		return "", err
	}
	for _, g := range all {
		if g.name == name {
			_ = n.Lock(ctx, n.complete)
			return g.id, nil
		}
	}
	return "", nil
}

// Resolve finds the snapshot of exactly this name.
func (n *Names) Resolve(ctx context.Context, name string) (layout.ID, error) {
	id, err := n.Find(ctx, name)
	if err == nil && id == "" {
		id, err = n.findInFiles(ctx, name)
	}
	if err == nil && id == "" {
		err = n.unfound(name)
	}
	return id, err
}

// unfound says that there is no such snapshot, or that the one to which the link
// leads cannot say what it is called.
func (n *Names) unfound(name string) error {
	id, err := n.linked(name)
	if err != nil {
		return err
	}
	if id != "" {
		if _, err := n.carries(id, name); err != nil {
			return fmt.Errorf("snapshot %q: %w", name, err)
		}
	}
	return failure.New(failure.NotFound, "no snapshot %q", name)
}

// Free refuses a name that cannot be given now; "" is always free. It is only a
// forecast: the name is checked again when it is taken, under names.lock.
func (n *Names) Free(ctx context.Context, name string) error {
	if name == "" {
		return nil
	}
	if err := spelling.CheckSnapshotName(name); err != nil {
		return err
	}
	if !n.Whole() {
		if err := n.Complete(ctx); err != nil {
			return err
		}
	}
	id, err := n.Find(ctx, name)
	if err != nil || id == "" {
		return err
	}
	return taken(name, id)
}

func taken(name string, by layout.ID) error {
	return failure.Hint(failure.New(failure.Conflict, "snapshot name %q is taken by %s", name, by), "choose another name")
}

// Take claims a name for a snapshot: failure.Conflict if another has it. "" is
// always free. names.lock is held. The link is durable.
func (n *Names) Take(id layout.ID, name string) error {
	if name == "" {
		return nil
	}
	if err := spelling.CheckSnapshotName(name); err != nil {
		return err
	}
	if !n.Whole() {
		if err := n.complete(); err != nil {
			return err
		}
	}
	if err := n.link(id, name); err != nil {
		return err
	}
	if err := durable.SyncDir(n.at.Path(layout.Names)); err != nil {
		return fmt.Errorf("take name %q: %w", name, err)
	}
	durable.Step("store.name.taken")
	return nil
}

// link makes the link of a name, in the place of a stale one too. Stale ones are
// seldom, so the snapshots are asked before one is taken over: a link that was
// spoilt does not cost its snapshot the name.
func (n *Names) link(id layout.ID, name string) error {
	holder, err := n.linkOrHolder(id, name)
	if err == nil && holder == "" {
		all, err := n.inFiles()
		if err != nil {
			return err
		}
		holder = id
		if i := slices.IndexFunc(all, func(g givenName) bool { return g.name == name }); i >= 0 {
			holder = all[i].id
		}
		if err := n.relink(holder, name); err != nil {
			return err
		}
	}
	if err == nil && holder != id {
		err = taken(name, holder)
	}
	return err
}

// linkOrHolder makes the link of a name, or gives the snapshot that has it already;
// "" where there is a stale one.
func (n *Names) linkOrHolder(id layout.ID, name string) (holder layout.ID, err error) {
	err = os.Symlink(linkStart+string(id), n.at.Path(layout.Names, name))
	if errors.Is(err, os.ErrExist) {
		return n.Holder(name)
	}
	return id, err
}

// relink makes a stale link anew.
func (n *Names) relink(id layout.ID, name string) error {
	path := n.at.Path(layout.Names, name)
	if err := os.Remove(path); err != nil {
		return fmt.Errorf("take name %q: %w", name, err)
	}
	return os.Symlink(linkStart+string(id), path)
}

// Drop removes the link of an unused name. names.lock is held. It is best effort:
// such a link is not binding.
func (n *Names) Drop(name string) (dropped bool) {
	if nobodys, err := n.nobodys(name); err != nil || !nobodys {
		return false
	}
	return os.Remove(n.at.Path(layout.Names, name)) == nil
}

// nobodys says whether the link of a name leads to no snapshot that has it, or may
// have it: by the link a meta.json that was lost gets its name back.
func (n *Names) nobodys(name string) (bool, error) {
	if spelling.CheckSnapshotName(name) != nil {
		return false, nil
	}
	id, err := n.linked(name)
	if err != nil || id == "" {
		return err == nil, err
	}
	carries, err := n.carries(id, name)
	if errors.Is(err, failure.Damaged) {
		return false, nil
	}
	return err == nil && !carries, err
}

// Whole: every snapshot with a name has its link.
func (n *Names) Whole() bool {
	if _, err := os.Lstat(n.formerNames()[0]); !errors.Is(err, os.ErrNotExist) {
		return false // an earlier program gave names since
	}
	_, err := os.Readlink(n.at.Path(layout.Names, wholeMark))
	return err == nil
}

// complete makes the links that are missing. Of two snapshots that have the
// same name, by an earlier program or by hand, one gets it. names.lock is held.
func (n *Names) complete() error {
	all, err := n.inFiles()
	if err != nil {
		return err
	}
	for _, g := range all {
		holder, err := n.linkOrHolder(g.id, g.name)
		if err == nil && holder == "" {
			err = n.relink(g.id, g.name)
		}
		if err != nil {
			return fmt.Errorf("complete the names: %w", err)
		}
	}
	if err := durable.SyncDir(n.at.Path(layout.Names)); err != nil {
		return fmt.Errorf("complete the names: %w", err)
	}
	durable.Step("store.names.linked")
	for _, path := range n.formerNames() {
		if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
			return fmt.Errorf("complete the names: %w", err)
		}
	}
	err = os.Symlink(linkStart, n.at.Path(layout.Names, wholeMark))
	if errors.Is(err, os.ErrExist) {
		return nil
	}
	return err
}

// givenName is a name that a meta.json has.
type givenName struct {
	id   layout.ID
	name string
}

// inFiles lists the names that snapshots have by their meta.json, in the
// order of their ids. One that cannot be read has none.
func (n *Names) inFiles() (all []givenName, err error) {
	ids, err := n.at.IDs()
	if err != nil {
		return nil, err
	}
	found := make([]givenName, len(ids))
	err = parallel.Each(len(ids), func(i int) error {
		if name, err := n.carried(ids[i]); err == nil && spelling.CheckSnapshotName(name) == nil {
			found[i] = givenName{ids[i], name}
		}
		return nil
	})
	return slices.DeleteFunc(found, func(g givenName) bool { return g.name == "" }), err
}
