package layout

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/cocoonv2/cocoon/internal/base/account"
	"github.com/cocoonv2/cocoon/internal/base/durable"
	"github.com/cocoonv2/cocoon/internal/base/failure"
	"github.com/cocoonv2/cocoon/internal/base/filelock"
	"github.com/cocoonv2/cocoon/internal/base/hint"
	"github.com/cocoonv2/cocoon/internal/base/spelling"
)

// Truth hold what can be had back from a backup only. They are made once,
// with the store; where one of them is missing afterwards a volume is not mounted,
// or it was lost, and nobody makes an empty one in its place without being asked.
func Truth() []string {
	return []string{"snapshots", "blobs/sha256", "images", "images/blobs/sha256", "vms", "pins"}
}

// makeFolders makes those that a store must have, and its account. Of several
// processes one does: the others would see an account of folders that they do not
// find.
func (l *Layout) makeFolders(ctx context.Context) error {
	if slices.ContainsFunc(Folders(), l.lacks) {
		lock, err := filelock.ExclusiveFolder(ctx, l.root)
		if err != nil {
			return fmt.Errorf("make folders of the store: %w", err)
		}
		defer lock.Unlock()
	}
	for _, f := range Folders() {
		if !l.lacks(f) {
			continue
		}
		if err := l.mayMake(f); err != nil {
			return err
		}
		if err := durable.Mkdir(l.Path(f), 0o700); err != nil && !durable.CannotWrite(err) { // who only reads does without
			return fmt.Errorf("make folder of the store: %w", err)
		}
	}
	l.foundAccount()
	return nil
}

func (l *Layout) lacks(folder string) bool {
	_, err := os.Stat(l.Path(folder))
	return err != nil
}

// mayMake refuses to make a folder that was there.
func (l *Layout) mayMake(folder string) error {
	if !slices.Contains(Truth(), folder) {
		return nil
	}
	a, err := account.Read(l.root)
	switch {
	case errors.Is(err, account.ErrNone) && l.pristine():
		return nil
	case err != nil && !errors.Is(err, account.ErrNone):
		return err
	case err == nil:
		if _, knew := a.Folders[folder]; !knew {
			return nil // of a kind that is newer than the account
		}
	}
	return failure.Hint(failure.New(failure.Damaged, "folder %s of store %s is missing", folder, l.root),
		"mount its volume, or put it back from a backup; "+hint.Repair.Of()+" makes an empty one")
}

// pristine: nothing was ever put into the store.
func (l *Layout) pristine() bool {
	for _, f := range Truth() {
		entries, err := os.ReadDir(l.Path(f))
		if err != nil && !errors.Is(err, os.ErrNotExist) {
			return false
		}
		if slices.ContainsFunc(entries, func(e os.DirEntry) bool {
			return spelling.ID(e.Name()) || spelling.Hex(e.Name(), 64) || filepath.Ext(e.Name()) == ".json"
		}) {
			return false
		}
	}
	return true
}

// foundAccount begins the account of a store that is new: all of its life will be
// known. It is best effort; without one the first collection is a careful one.
func (l *Layout) foundAccount() {
	if _, err := os.Lstat(l.Path(account.File)); !errors.Is(err, os.ErrNotExist) || !l.pristine() {
		return
	}
	a := account.Begin(time.Time{})
	a.Made = time.Now().UTC()
	places, err := account.Places(l.root, Truth())
	if err != nil || len(places) <= len(Truth()) {
		return
	}
	a.Folders = places
	_ = a.Found(l.root)
}

// remakeFolders makes the folders of the truth that are missing.
func (l *Layout) remakeFolders(dryRun bool) (made []Remade, err error) {
	for _, f := range Truth() {
		if _, err := os.Stat(l.Path(f)); !errors.Is(err, os.ErrNotExist) {
			continue
		}
		how := "made again, empty: what it held is to be put back from a backup; gc takes nothing until " + hint.Accept.Of()
		if dryRun {
			how = "would be " + how
		} else if err := durable.Mkdir(l.Path(f), 0o700); err != nil {
			return made, fmt.Errorf("make folder of the store: %w", err)
		}
		made = append(made, Remade{"folder " + f, how})
	}
	return made, nil
}
