package image

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/opencontainers/go-digest"

	"github.com/cocoonv2/cocoon/gc/garbage"
	"github.com/cocoonv2/cocoon/internal/base/durable"
	"github.com/cocoonv2/cocoon/internal/base/failure"
	"github.com/cocoonv2/cocoon/store"
	"github.com/cocoonv2/cocoon/store/layout"
)

// Pin is pins/<id>.json: what the operator wants to keep, whatever else names it.
// Pins made here have the hex digits of their one digest as id; one written by
// hand may have any id, and hold several.
type Pin struct {
	Version int             `json:"version"` // 0 or 1
	ID      string          `json:"id,omitempty"`
	Name    string          `json:"name,omitempty"` // of the image, when it was pinned
	Digests []digest.Digest `json:"digests"`
	Images  []digest.Digest `json:"images,omitempty"`
}

const pinVersion = 1

var pinFile = durable.Document{Name: "pin", Limit: 8 << 20}

func (i *Store) pinPath(id string) string { return i.st.Path("pins", id+".json") }

// Pinned are all that a pin keeps.
func (p *Pin) Pinned() []digest.Digest { return slices.Concat(p.Digests, p.Images) }

// Holds reports whether it keeps a blob.
func (p *Pin) Holds(d digest.Digest) bool { return slices.Contains(p.Pinned(), d) }

func (p *Pin) String() string { return p.root().String() }

func (p *Pin) root() garbage.Root {
	return garbage.Root{Kind: garbage.Pin, ID: p.ID, Name: p.Name, Digests: p.Pinned()}
}

// readPin is failure.Damaged unless everything in a pin is understood.
func readPin(path string) (*Pin, error) {
	b, err := pinFile.Read(path)
	if err != nil {
		return nil, err
	}
	id := strings.TrimSuffix(filepath.Base(path), ".json")
	var p Pin
	err = durable.DecodeAll(b, &p)
	switch {
	case err != nil:
		return nil, failure.New(failure.Damaged, "%s: %w", path, err)
	case p.Version < 0 || p.Version > pinVersion:
		return nil, failure.New(failure.Damaged, "%s has version %d", path, p.Version)
	case p.ID != "" && p.ID != id:
		return nil, failure.New(failure.Damaged, "%s is that of %q", path, p.ID)
	case len(p.Pinned()) == 0:
		return nil, failure.New(failure.Damaged, "%s pins nothing", path)
	}
	for _, d := range p.Pinned() {
		if d.Validate() != nil || d.Algorithm() != digest.SHA256 {
			return nil, failure.New(failure.Damaged, "%s pins %.80q, which is no digest", path, string(d))
		}
	}
	p.ID = id
	return &p, nil
}

// Pins is the Source of pins.
func Pins(st *store.Store) garbage.Source {
	return garbage.Source{
		Folder: "pins",
		Files:  func() ([]string, error) { return layout.JSONFiles(st.Path("pins")) },
		Read: func(path string) (garbage.Root, error) {
			p, err := readPin(path)
			if err != nil {
				return garbage.Root{}, err
			}
			return p.root(), nil
		},
	}
}

// Pins lists the pins, by id. With an error, there may be more.
func (i *Store) Pins(ctx context.Context) ([]*Pin, error) {
	files, err := layout.JSONFiles(i.st.Path("pins"))
	if err != nil {
		return nil, err
	}
	var all []*Pin
	var errs []error
	for _, path := range files {
		p, err := readPin(path)
		switch {
		case err == nil:
			all = append(all, p)
		case !errors.Is(err, os.ErrNotExist): // unpinned meanwhile
			errs = append(errs, err)
		}
	}
	return all, errors.Join(append(errs, ctx.Err())...)
}

// Pin keeps an image blob until it is unpinned; name is its current name, ""
// without one. Pinning what is already pinned is success.
func (i *Store) Pin(ctx context.Context, l *store.Lease, d digest.Digest, name string) error {
	if err := l.Hold(ctx, d); err != nil { // until the pin does
		return err
	}
	if _, err := os.Stat(i.Path(d)); errors.Is(err, os.ErrNotExist) {
		return failure.New(failure.NotFound, "no image %s", d)
	} else if err != nil {
		return fmt.Errorf("pin: %w", err)
	}
	path := i.pinPath(d.Encoded())
	if _, err := readPin(path); !errors.Is(err, os.ErrNotExist) {
		return err
	}
	b, err := json.Marshal(Pin{Version: pinVersion, ID: d.Encoded(), Name: name, Digests: []digest.Digest{d}})
	if err != nil {
		return err
	}
	return pinFile.Write(path, b, 0o600)
}

// Unpin removes the pin of this id, or else those of a blob; failure.NotFound if
// there is none. One that holds more than that is removed by its id only.
func (i *Store) Unpin(ctx context.Context, ref string, d digest.Digest) error {
	all, err := i.Pins(ctx)
	if err != nil {
		return err
	}
	if at := slices.IndexFunc(all, func(p *Pin) bool { return p.ID == ref }); at >= 0 {
		return i.removePin(all[at])
	}
	of := slices.DeleteFunc(all, func(p *Pin) bool { return !p.Holds(d) })
	if len(of) == 0 {
		return failure.New(failure.NotFound, "image %s is not pinned", ref)
	}
	if at := slices.IndexFunc(of, func(p *Pin) bool { return len(p.Pinned()) > 1 }); at >= 0 {
		return failure.New(failure.Conflict, "%s holds %d blobs, not only %s: it is removed by its own id, %s", of[at], len(of[at].Pinned()), ref, of[at].ID)
	}
	for _, p := range of {
		err = errors.Join(err, i.removePin(p))
	}
	return err
}

func (i *Store) removePin(p *Pin) error {
	path := i.pinPath(p.ID)
	trashed, err := i.st.Trash().Remove(string(garbage.Pin), p.ID, path)
	if errors.Is(err, os.ErrNotExist) {
		return nil // somebody else did
	}
	if err != nil {
		return err
	}
	return durable.SyncParents(path, trashed)
}
