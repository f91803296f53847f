// Package garbage is the interface by which packages present to the collector
// what they keep and what they have. Package gc uses no other: apart from the
// store, whose locks it needs, it knows no file, field or folder of another
// package, and no package knows how gc decides.
//
// Words: an object is something that may be removed, of one of the kinds declared
// in kinds.go; a key identifies one that others can need (a blob, a VM, a
// snapshot); a root is kept for its own sake, together with the keys it needs; a
// source lists the roots and objects of one package; a doubt is about an object
// whose owner may only be temporarily missing.
//
// Invariants:
//
//  1. A root is read by the package that writes it, with the same decoder, and is
//     read whole or is an error: if not everything it needs is known, the run
//     ends.
//  2. A source decides nothing: it lists what exists and why it would go; the
//     marks say whether it is needed, and are asked again until it is gone.
//  3. A source removes only by Object.End, which is called when the last window
//     is over.
package garbage

import (
	"context"
	"fmt"

	"github.com/opencontainers/go-digest"
)

// Source lists the contents of one folder of the store, or objects outside of it,
// for one package. Nil fields are what it does not have.
type Source struct {
	Folder string // of the store, covered by this source; "" outside of it
	// Files lists the roots by their files; a listed file need not exist.
	Files func() ([]string, error)
	// Read reads one. It is failure.Damaged unless everything in it was
	// understood: a newer program may have added something that is needed.
	// os.ErrNotExist if it is gone.
	Read func(path string) (Root, error)
	// Find returns the file of a root of this kind; "" if the source has none of
	// it.
	Find func(kind Kind, id string) string
	// Undo undoes the half-done work of dead processes. It is called before the
	// roots are read.
	Undo func(ctx context.Context, u Undoing) error
	// Doubts lists objects without a holder that look as if they had an owner.
	Doubts func(ctx context.Context, held func(Key) bool, tell func(Doubt)) error
	// Blobs says that the folder holds only blobs of this kind, named by their
	// digests; gc lists them itself, for there may be a million. Free, which may
	// be nil, is called for an unreferenced one, also in the window.
	Blobs Kind
	Free  func(d digest.Digest) bool
	// Objects judges everything else.
	Objects func(ctx context.Context, r Run) error
}

// Root is something kept for its own sake, with what it needs.
type Root struct {
	Kind      Kind
	ID        string          // of its kind
	Name      string          // for display, "" if the ID serves
	Digests   []digest.Digest // of blobs and images
	Snapshots []string        // ids
	VM        string          // id of the VM whose folder it keeps, "" for none
	// For a VM: how often it was woken, and whether it certainly is not
	// suspended, whatever else exists.
	Woken int
	Awake bool
}

func (r Root) String() string {
	if r.Name == "" || r.Name == r.ID {
		return string(r.Kind) + " " + r.ID
	}
	return fmt.Sprintf("%s %s (%s)", r.Kind, r.Name, r.ID)
}

// Object is one existing object.
type Object struct {
	Kind   Kind
	ID     string
	Key    Key    // by which others need it; the zero value: not referable
	Path   string // what it occupies, "" for nothing
	Reason string // why it goes, if it does
	// Still is called again in the window in which it goes; nil means yes.
	Still func() bool
	// InStore: Path is moved to the trash in a window.
	InStore bool
	// End removes it when the windows are over; more is appended to its reason.
	// With neither End nor InStore, it goes together with another object.
	End func(ctx context.Context) (more string, err error)
	// Last: it goes after all others, such as a network once no VMM has its TAPs.
	Last bool
}

// Doubt is about an object that has no owner and may be the last copy of
// something.
type Doubt struct {
	Kind   Kind
	ID     string
	Key    Key
	Reason string // in the third person: "has no manifest"
	Path   string
}

// Foreign is something outside the store that is left alone because it belongs to
// another store, or its owner is unknown.
type Foreign struct {
	Kind   Kind   `json:"kind"`
	ID     string `json:"id"`
	Bytes  int64  `json:"bytes"`
	Owner  string `json:"owner"` // "" if unknown
	Reason string `json:"reason"`
	PIDs   []int  `json:"pids"`
}

// Run is a collection, as a source sees it once the roots are marked.
type Run interface {
	// Held reports whether an object is needed.
	Held(k Key) bool
	// Hold keeps an object for a reason other than a root.
	Hold(k Key, why string)
	// Judge keeps an object that is held, and plans the end of any other.
	Judge(o Object)
	// Leave reports what does not belong to this store.
	Leave(f Foreign)
	// GivenUp: the operator abandons what cannot be undone for this VM.
	GivenUp(vm string) bool
	// AtEnd is called when the run is over.
	AtEnd(f func())
}

// Undoing is a collection, as a source sees it before the roots are read.
type Undoing interface {
	// DryRun: nothing is undone, only reported.
	DryRun() bool
	// Making: a living process is making this VM.
	Making(ctx context.Context, vm string) (bool, error)
	GivenUp(vm string) bool
	// Undone and NotUndone report one object.
	Undone(k Kind, id, reason string)
	NotUndone(k Kind, id, reason string, err error)
}
