// Package garbage is the language in which rooms tell the collector what they keep
// and what they have. Package gc speaks no other: but for the store, on whose locks
// it stands, it knows no file, field or folder of a room, and no room knows how gc
// decides.
//
// Words: an object is what may be removed, of one of the kinds that are declared in
// kinds.go; a key names one that others can need (a blob, a VM, a snapshot); a root
// is what is kept for its own sake, and the keys that it needs; a source is a
// room's account of its roots and its objects; a doubt is about an object whose
// owner may only be aside.
//
// Invariants:
//
//  1. A root is read by the room that writes it, with the same decoder, and is read
//     whole or is an error: who cannot say all that it needs says nothing, and the
//     run ends.
//  2. A source decides nothing: it says what there is and why it would go; whether
//     somebody needs it is asked of the marks, again and again until it is gone.
//  3. Nothing is removed by a source but by Object.End, which is called when the
//     last window is over.
package garbage

import (
	"context"
	"fmt"

	"github.com/opencontainers/go-digest"
)

// Source is one room's account of one folder of the store, or of what it has
// outside of it. What it leaves nil it does not have.
type Source struct {
	Folder string // of the store, which this source answers for; "" outside of it
	// Files lists the roots by their files; one that it lists need not be there.
	Files func() ([]string, error)
	// Read reads one. It is failure.Damaged unless all of it was understood: what a
	// newer program has added may be what something needs. os.ErrNotExist when there
	// is none any more.
	Read func(path string) (Root, error)
	// Find is the file of a root of this kind; "" where the source has none of it.
	Find func(kind Kind, id string) string
	// Undo takes back what processes that died had left half-done. It comes before
	// the roots are read.
	Undo func(ctx context.Context, u Undoing) error
	// Doubts tells of objects that nobody holds and that look as if they had an owner.
	Doubts func(ctx context.Context, held func(Key) bool, tell func(Doubt)) error
	// Blobs says that there is nothing in the folder but blobs of this kind, named by
	// their digests; gc lists them itself, for there may be a million. Free, which may
	// be nil, is asked of one that nobody names, also in the window.
	Blobs Kind
	Free  func(d digest.Digest) bool
	// Objects judges all else that there is.
	Objects func(ctx context.Context, r Run) error
}

// Root is something that a room keeps for its own sake, and what that needs.
type Root struct {
	Kind      Kind
	ID        string          // of its kind
	Name      string          // for operators, "" where the ID is one
	Digests   []digest.Digest // of blobs and images
	Snapshots []string        // ids
	VM        string          // id of the VM whose folder it keeps, "" for none
	// Of a VM: how often it was woken from a sleep, and whether it surely does not
	// sleep, whatever else is there or not.
	Woken int
	Awake bool
}

func (r Root) String() string {
	if r.Name == "" || r.Name == r.ID {
		return string(r.Kind) + " " + r.ID
	}
	return fmt.Sprintf("%s %s (%s)", r.Kind, r.Name, r.ID)
}

// Object is one that there is.
type Object struct {
	Kind   Kind
	ID     string
	Key    Key    // by which others need it; the zero value: nobody can
	Path   string // what it occupies, "" for nothing
	Reason string // why it goes, if it does
	// Still is asked again in the window in which it goes; nil is yes.
	Still func() bool
	// InStore: Path is moved to the trash in a window.
	InStore bool
	// End removes it when the windows are over; more is put behind its reason. With
	// neither an End nor InStore something else takes it along.
	End func(ctx context.Context) (more string, err error)
	// Last: it goes when all others have, such as a network when no VMM has its TAPs.
	Last bool
}

// Doubt is about an object that has no owner, and that may be the last that there is
// of something.
type Doubt struct {
	Kind   Kind
	ID     string
	Key    Key
	Reason string // in the third person: "has no manifest"
	Path   string
}

// Foreign is what lies outside the store and is left alone because it is another
// store's, or nobody says whose it is.
type Foreign struct {
	Kind   Kind   `json:"kind"`
	ID     string `json:"id"`
	Bytes  int64  `json:"bytes"`
	Owner  string `json:"owner"` // "" where nobody says
	Reason string `json:"reason"`
	PIDs   []int  `json:"pids"`
}

// Run is a collection, as a source sees it when the roots are marked.
type Run interface {
	// Held tells whether somebody needs an object.
	Held(k Key) bool
	// Hold keeps an object for a reason that no root has.
	Hold(k Key, why string)
	// Judge keeps an object that is held, and plans the end of any other.
	Judge(o Object)
	// Leave reports what is not this store's.
	Leave(f Foreign)
	// GivenUp: the operator gives up what cannot be undone of this VM.
	GivenUp(vm string) bool
	// AtEnd is called when the run is over.
	AtEnd(f func())
}

// Undoing is a collection, as a source sees it before the roots are read.
type Undoing interface {
	// DryRun: nothing is undone, only told.
	DryRun() bool
	// Making: a living process is making this VM.
	Making(ctx context.Context, vm string) (bool, error)
	GivenUp(vm string) bool
	// Undone and NotUndone report one object.
	Undone(k Kind, id, reason string)
	NotUndone(k Kind, id, reason string, err error)
}
