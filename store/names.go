package store

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
	"github.com/cocoonv2/cocoon/internal/base/spelling"
	storelayout "github.com/cocoonv2/cocoon/store/layout"
)

// A snapshot's name stands in its meta.json. That no two have the same is what
// the folder names is for: a symbolic link for each name,
//
//	names/NAME → ../snapshots/ID
//
// so the kernel says in one step whether a name is free, and whose it is.
//
//  1. A link is durable before its snapshot is published, or before its meta.json
//     has the new name; it goes after the snapshot, or the old name, has gone. So
//     there may be too many links, never too few.
//  2. A link is stale when its snapshot is gone, cannot be read, or has another
//     name. Nobody believes a stale link; whoever wants the name takes it over. One
//     whose snapshot cannot be read is not removed: it is what repair has.
//  3. Links are made and removed under names.lock, and read without it.
//  4. wholeMark says that every snapshot with a name has its link. It is missing
//     in stores of earlier programs, which kept a file cache/names instead and make
//     it again when they come back. Then the snapshots are listed once.
//
// A snapshot that was put there by hand gets its link when it is asked for by
// name, or from gc or repair.

const (
	// wholeMark is a link too: what loses the links of a store, such as a copy of
	// plain files only, loses the mark with them.
	wholeMark = ".whole"
	linkStart = "../snapshots/"
)

// formerNames are the files of earlier programs.
func (s *Store) formerNames() []string {
	return []string{s.Path("cache", "names"), s.Path("cache", "names.voucher")}
}

// names makes a check of names and what follows from it one step.
func (s *Store) names(ctx context.Context, f func() error) error {
	lock, err := filelock.Brief(ctx, s.Path("names.lock"))
	if err != nil {
		return err
	}
	return errors.Join(f(), lock.Unlock())
}

// linked gives the snapshot to which the link of a name leads; "" where there is
// no link, or something else in its place.
func (s *Store) linked(name string) (ID, error) {
	to, err := os.Readlink(s.Path(storelayout.Names, name))
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
	return ID(id), nil
}

// holder gives the snapshot that has a name, by its link; "" where there is none,
// or a stale one.
func (s *Store) holder(name string) (ID, error) {
	if ValidateName(name) != nil {
		return "", nil
	}
	id, err := s.linked(name)
	if err != nil || id == "" {
		return "", err
	}
	carries, err := s.carries(id, name)
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
func (s *Store) carries(id ID, name string) (bool, error) {
	m, err := readMeta(s.Path("snapshots", string(id)))
	if errors.Is(err, failure.NotFound) {
		return false, nil
	}
	return err == nil && m.Name == name, err
}

// idOf finds the snapshot of exactly this name; "" if there is none as far as the
// links say.
func (s *Store) idOf(ctx context.Context, name string) (ID, error) {
	id, err := s.holder(name)
	if err != nil || id != "" || s.namesWhole() {
		return id, err
	}
	return s.idInFiles(ctx, name)
}

// idInFiles is idOf by the snapshots themselves, before it is said that there is
// no such name. One that had no link gets it, if the store can be written.
func (s *Store) idInFiles(ctx context.Context, name string) (ID, error) {
	all, err := s.namesInFiles()
	if err != nil {
		return "", err
	}
	for _, n := range all {
		if n.name == name {
			_ = s.names(ctx, s.completeNames)
			return n.id, nil
		}
	}
	return "", nil
}

// takeName gives a name to a snapshot that is about to have it: failure.Conflict
// when another has it. "" is always free. names.lock is held. The link is durable.
func (s *Store) takeName(id ID, name string) error {
	if name == "" {
		return nil
	}
	if err := ValidateName(name); err != nil {
		return err
	}
	if !s.namesWhole() {
		if err := s.completeNames(); err != nil {
			return err
		}
	}
	if err := s.link(id, name); err != nil {
		return err
	}
	if err := durable.SyncDir(s.Path(storelayout.Names)); err != nil {
		return fmt.Errorf("take name %q: %w", name, err)
	}
	durable.Step("store.name.taken")
	return nil
}

// link makes the link of a name, in the place of a stale one too. Stale ones are
// seldom, so the snapshots are asked before one is taken over: a link that was
// spoilt does not cost its snapshot the name.
func (s *Store) link(id ID, name string) error {
	holder, err := s.linkOrHolder(id, name)
	if err == nil && holder == "" {
		all, err := s.namesInFiles()
		if err != nil {
			return err
		}
		holder = id
		if i := slices.IndexFunc(all, func(n givenName) bool { return n.name == name }); i >= 0 {
			holder = all[i].id
		}
		if err := s.relink(holder, name); err != nil {
			return err
		}
	}
	if err == nil && holder != id {
		err = failure.New(failure.Conflict, "snapshot name %q is taken by %s", name, holder)
	}
	return err
}

// linkOrHolder makes the link of a name, or gives the snapshot that has it already;
// "" where there is a stale one.
func (s *Store) linkOrHolder(id ID, name string) (holder ID, err error) {
	err = os.Symlink(linkStart+string(id), s.Path(storelayout.Names, name))
	if errors.Is(err, os.ErrExist) {
		return s.holder(name)
	}
	return id, err
}

// relink makes a stale link anew.
func (s *Store) relink(id ID, name string) error {
	path := s.Path(storelayout.Names, name)
	if err := os.Remove(path); err != nil {
		return fmt.Errorf("take name %q: %w", name, err)
	}
	return os.Symlink(linkStart+string(id), path)
}

// dropName removes the link of a name that nobody has. names.lock is held. It is
// best effort: such a link binds nobody.
func (s *Store) dropName(name string) (dropped bool) {
	if nobodys, err := s.nobodys(name); err != nil || !nobodys {
		return false
	}
	return os.Remove(s.Path(storelayout.Names, name)) == nil
}

// nobodys says whether the link of a name leads to no snapshot that has it, or may
// have it: by the link a meta.json that was lost gets its name back.
func (s *Store) nobodys(name string) (bool, error) {
	if ValidateName(name) != nil {
		return false, nil
	}
	id, err := s.linked(name)
	if err != nil || id == "" {
		return err == nil, err
	}
	carries, err := s.carries(id, name)
	if errors.Is(err, failure.Damaged) {
		return false, nil
	}
	return err == nil && !carries, err
}

// namesWhole: every snapshot with a name has its link.
func (s *Store) namesWhole() bool {
	if _, err := os.Lstat(s.formerNames()[0]); !errors.Is(err, os.ErrNotExist) {
		return false // an earlier program gave names since
	}
	_, err := os.Readlink(s.Path(storelayout.Names, wholeMark))
	return err == nil
}

// completeNames makes the links that are missing. Of two snapshots that have the
// same name, by an earlier program or by hand, one gets it. names.lock is held.
func (s *Store) completeNames() error {
	all, err := s.namesInFiles()
	if err != nil {
		return err
	}
	for _, n := range all {
		holder, err := s.linkOrHolder(n.id, n.name)
		if err == nil && holder == "" {
			err = s.relink(n.id, n.name)
		}
		if err != nil {
			return fmt.Errorf("complete the names: %w", err)
		}
	}
	if err := durable.SyncDir(s.Path(storelayout.Names)); err != nil {
		return fmt.Errorf("complete the names: %w", err)
	}
	durable.Step("store.names.linked")
	for _, path := range s.formerNames() {
		if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
			return fmt.Errorf("complete the names: %w", err)
		}
	}
	err = os.Symlink(linkStart, s.Path(storelayout.Names, wholeMark))
	if errors.Is(err, os.ErrExist) {
		return nil
	}
	return err
}

// givenName is a name that a meta.json has.
type givenName struct {
	id   ID
	name string
}

// namesInFiles lists the names that snapshots have by their meta.json, in the
// order of their ids. One that cannot be read has none.
func (s *Store) namesInFiles() (all []givenName, err error) {
	ids, err := s.IDs()
	if err != nil {
		return nil, err
	}
	found := make([]givenName, len(ids))
	err = inParallel(len(ids), func(i int) error {
		if m, err := readMeta(s.Path("snapshots", string(ids[i]))); err == nil && ValidateName(m.Name) == nil {
			found[i] = givenName{ids[i], m.Name}
		}
		return nil
	})
	for _, n := range found {
		if n.name != "" {
			all = append(all, n)
		}
	}
	return all, err
}
