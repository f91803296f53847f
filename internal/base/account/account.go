// Package account records what a store held when it was last collected. Only by
// this record can a collector tell objects that are no longer needed from objects
// that are missing because a volume is not mounted, a backup is half restored, or
// somebody moved a file away.
//
// Words: a root is an object kept for its own sake, identified by kind and id; a
// place is a folder as the file system identifies it; a doubtful object has no
// owner, and no sign that it never had one; an account is new if nothing had been
// noted of its store before.
//
// The account is only compared, never obeyed: nothing is kept or removed because
// of an entry in it. An entry whose object no longer exists was either removed by
// one of the program's verbs, each of which leaves a trace, or lost; in that case
// nothing is removed until an operator has looked.
//
// Invariants:
//
//  1. It is replaced as a whole, by the holder of gc.lock, at the end of a
//     collection. A new store is created with one.
//  2. A missing or damaged account never blocks a store: a new one is begun, and
//     objects older than it are left alone for a while.
//  3. An account of another version is an error.
//  4. No capture waits for it.
package account

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"time"

	"github.com/cocoonv2/cocoon/internal/base/durable"
	"github.com/cocoonv2/cocoon/internal/base/failure"
)

// File is its name in the folder of a store.
const File = "account"

const version = 1

// document: a million roots take some 60 MiB.
var document = durable.Document{Name: File, Limit: 256 << 20}

// Account is what was noted.
type Account struct {
	Version int       `json:"version"`
	Made    time.Time `json:"made"`
	// New is when the first account of this store was begun, if the store had
	// been in use before; the zero time if its whole life is known.
	New     time.Time        `json:"new,omitzero"`
	Folders map[string]Place `json:"folders"`
	// Snapshots by id, with their names.
	Snapshots map[string]string `json:"snapshots"`
	// Roots are all others, by their files below the store's folder.
	Roots map[string]Root `json:"roots"`
	// Doubtful lists objects without an owner as "kind/id", with the time they
	// were first seen so.
	Doubtful map[string]time.Time `json:"doubtful,omitempty"`
}

// Root that was there.
type Root struct {
	Kind  string `json:"kind"`
	ID    string `json:"id"`
	Name  string `json:"name,omitempty"`
	Woken int    `json:"woken,omitempty"` // of a suspended VM: how often it was, before
}

// Begin makes the account of a store; now is the zero time for a store that is
// just being created.
func Begin(now time.Time) *Account {
	return &Account{Version: version, New: now, Folders: map[string]Place{}, Snapshots: map[string]string{}, Roots: map[string]Root{}, Doubtful: map[string]time.Time{}}
}

// sealed is the file: a flipped bit in an id would be a root that vanished.
type sealed struct {
	Sum     string          `json:"sum"` // SHA-256 of the account as it stands here
	Account json.RawMessage `json:"account"`
}

// ErrNone says that there is no account that could be read.
var ErrNone = errors.New("no account")

// Read returns the account of the store in a folder: ErrNone if it is missing or
// damaged, failure.Damaged if a newer program wrote it.
func Read(root string) (*Account, error) {
	b, err := document.Read(filepath.Join(root, File))
	switch {
	case errors.Is(err, os.ErrNotExist):
		return nil, ErrNone
	case errors.Is(err, failure.Damaged):
		return nil, fmt.Errorf("%w: %w", ErrNone, errors.New(err.Error()))
	case err != nil:
		return nil, fmt.Errorf("read the account: %w", err)
	}
	var s sealed
	if err := json.Unmarshal(b, &s); err != nil || s.Sum != sum(s.Account) {
		return nil, fmt.Errorf("%w: %s is damaged", ErrNone, filepath.Join(root, File))
	}
	a := Begin(time.Time{})
	if err := durable.DecodeAll(s.Account, a); err != nil || a.Version != version {
		return nil, failure.Hint(failure.New(failure.Damaged, "account of store %s: version %d, this program knows %d: %w", root, a.Version, version, err), "use the newer program")
	}
	return a, nil
}

func sum(b []byte) string {
	s := sha256.Sum256(b)
	return hex.EncodeToString(s[:])
}

func (a *Account) encode() ([]byte, error) {
	b, err := json.Marshal(a)
	if err != nil {
		return nil, err
	}
	return json.Marshal(sealed{sum(b), b})
}

// Write replaces the account of the store in a folder.
func (a *Account) Write(root string) error {
	b, err := a.encode()
	if err == nil {
		err = document.Write(filepath.Join(root, File), b, 0o600)
	}
	if err != nil {
		return fmt.Errorf("write the account: %w", err)
	}
	return nil
}

// Found writes the first account of a store; one that is there already stays.
func (a *Account) Found(root string) error {
	b, err := a.encode()
	if err != nil {
		return err
	}
	path := filepath.Join(root, File)
	staged, err := document.Stage(path, b, 0o600)
	if err != nil {
		return err
	}
	err = staged.Publish()
	if errors.Is(err, os.ErrExist) {
		err = nil
	}
	return errors.Join(err, staged.Drop(), durable.SyncDir(root))
}

// Says reports whether two accounts hold the same; their times do not count.
func (a *Account) Says(other *Account) bool {
	return a != nil && other != nil && a.New.Equal(other.New) && maps.Equal(a.Folders, other.Folders) && maps.Equal(a.Snapshots, other.Snapshots) &&
		maps.Equal(a.Roots, other.Roots) && maps.EqualFunc(a.Doubtful, other.Doubtful, time.Time.Equal)
}
