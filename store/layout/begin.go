package layout

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/cocoonv2/cocoon/internal/base/durable"
	"github.com/cocoonv2/cocoon/internal/base/failure"
	"github.com/cocoonv2/cocoon/internal/base/filelock"
	"github.com/cocoonv2/cocoon/internal/base/hint"
	"github.com/cocoonv2/cocoon/internal/base/owner"
)

// find looks for the store at root, and makes it where there is none and it is
// wanted. It judges the folder itself, nothing in it.
func (l *Layout) find(ctx context.Context, create bool) error {
	if _, err := os.Lstat(l.root); errors.Is(err, os.ErrNotExist) {
		if !create {
			return l.none("there is no such folder")
		}
		if err := durable.Mkdir(l.root, 0o700); err != nil {
			return fmt.Errorf("make store: %w", err)
		}
	}
	if err := errors.Join(checkFolder(l.root, 0), checkFileSystem(l.root)); err != nil {
		return err
	}
	begun, err := l.begun()
	if err == nil && !begun {
		if !create {
			return l.none("the folder is empty; is its disk mounted?")
		}
		err = l.begin(ctx)
	}
	if err != nil {
		return err
	}
	return checkFolder(l.root, othersWrite)
}

// othersWrite are the rights with which others could change what is read here.
const othersWrite = 0o022

// begun tells a store from a folder in which one can be made. It refuses what is
// neither: nothing is made in somebody's home, and no advice given to change it.
func (l *Layout) begun() (bool, error) {
	if l.hasFormat() {
		return true, nil
	}
	entries, err := os.ReadDir(l.root)
	if err != nil {
		return false, err
	}
	lost := l.hasFolders()
	if l.hasFormat() {
		return true, nil // another process made the store between the two looks
	}
	if lost {
		return false, l.lostFormat("is missing")
	}
	for _, e := range entries {
		if !beginning(e.Name()) {
			return false, failure.Hint(failure.New(failure.Incompatible, "%s is no cocoon store and not empty", l.root), "choose another folder with "+hint.RootDir.Of())
		}
	}
	return false, nil
}

// hasFormat says no more than that: what the file is, Version says.
func (l *Layout) hasFormat() bool {
	_, err := os.Lstat(l.Path("format"))
	return !errors.Is(err, os.ErrNotExist)
}

// beginning are the names that an empty folder may have: what a new file system
// has in it, and what a process that made a store and died in it left.
func beginning(name string) bool {
	return name == "lost+found" || name == owner.File || strings.HasPrefix(name, ".tmp-format-") || strings.HasPrefix(name, ".tmp-"+owner.File+"-")
}

func (l *Layout) none(why string) error {
	return failure.Hint(failure.New(failure.NotFound, "no store at %s: %s", l.root, why),
		hint.MakeStore.Of())
}

// begin makes a store of an empty folder. Of several processes one does; format
// is the last that is written, so a crash before it leaves an empty folder.
func (l *Layout) begin(ctx context.Context) error {
	if err := checkFolder(l.root, othersWrite); err != nil {
		return err
	}
	lock, err := filelock.ExclusiveFolder(ctx, l.root)
	if err != nil {
		return fmt.Errorf("make store: %w", err)
	}
	defer lock.Unlock()
	if begun, err := l.begun(); err != nil || begun {
		return err
	}
	if err := os.Chmod(l.root, 0o700); err != nil {
		return err
	}
	if _, err := owner.Give(l.root); err != nil {
		return err
	}
	if err := l.SetVersion(Plain); err != nil {
		return fmt.Errorf("make store: %w", err)
	}
	return nil
}

// Mark says which store made something; the zero value is nobody's.
type Mark = owner.Mark

// Owner is the mark of this store on what it makes outside of its folder. A store
// that has no identity, or was copied here, gets one. One that cannot be written
// has none, and owns nothing: the zero Mark.
func (l *Layout) Owner(ctx context.Context) (Mark, error) {
	l.ownerMu.Lock()
	defer l.ownerMu.Unlock()
	if l.owner != (owner.Mark{}) {
		return l.owner, nil
	}
	id, err := owner.Read(l.root)
	if err == nil && id == "" {
		id, err = l.giveIdentity(ctx)
	}
	if errors.Is(err, unix.EROFS) {
		return owner.Mark{}, nil
	}
	if err == nil {
		l.owner, err = owner.At(l.root, id)
	}
	return l.owner, err
}

func (l *Layout) giveIdentity(ctx context.Context) (string, error) {
	lock, err := filelock.ExclusiveFolder(ctx, l.root)
	if err != nil {
		return "", err
	}
	defer lock.Unlock()
	return owner.Give(l.root)
}
