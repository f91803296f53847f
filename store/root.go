package store

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/opencontainers/go-digest"

	"github.com/cocoonv2/cocoon/internal/durable"
	"github.com/cocoonv2/cocoon/internal/failure"
	"github.com/cocoonv2/cocoon/internal/spelling"
)

// Root is something that a room keeps for its own sake, and what that needs.
type Root struct {
	Kind      string          // "vm", "suspended vm", "image", "pin"
	ID        string          // of its kind
	Name      string          // for operators, "" where the ID is one
	Digests   []digest.Digest // of blobs and images
	Snapshots []ID
	VM        string // id of the VM whose folder it keeps, "" for none
	// Of a VM: how often it was woken from a sleep, and whether it surely does not
	// sleep, whatever else is there or not.
	Woken int
	Awake bool
}

func (r Root) String() string {
	if r.Name == "" || r.Name == r.ID {
		return r.Kind + " " + r.ID
	}
	return fmt.Sprintf("%s %s (%s)", r.Kind, r.Name, r.ID)
}

// Source is a folder of the store whose files are roots. Its owner reads them, as
// it does for its own ends; so nobody decides what is needed by a document that
// another room would refuse, and nobody knows the fields of another room's.
type Source struct {
	Folder string
	// Files lists the roots by their files; one that it lists need not be there.
	Files func() ([]string, error)
	// Read reads one. It is failure.Damaged unless all of it was understood: what a
	// newer program has added may be what something needs. os.ErrNotExist when there
	// is none any more.
	Read func(path string) (Root, error)
}

// RootFolders are those that must have a Source: without it what they hold would
// be taken for nobody's.
func RootFolders() []string { return []string{"vms", "images", "pins"} }

// JSONFiles lists the files *.json of a folder of the store.
func (s *Store) JSONFiles(folder string) ([]string, error) {
	entries, err := os.ReadDir(s.Path(folder))
	if err != nil {
		return nil, fmt.Errorf("list %s: %w", folder, err)
	}
	var files []string
	for _, e := range entries {
		if filepath.Ext(e.Name()) == ".json" && !strings.HasPrefix(e.Name(), ".") {
			files = append(files, s.Path(folder, e.Name()))
		}
	}
	return files, nil
}

// pin is pins/<id>.json: what the operator wants to keep, whatever else names it.
type pin struct {
	Version int             `json:"version"` // 0 or 1
	ID      string          `json:"id,omitempty"`
	Name    string          `json:"name,omitempty"`
	Digests []digest.Digest `json:"digests"`
	Images  []digest.Digest `json:"images,omitempty"`
}

var pinDocument = durable.Document{Name: "pin", Limit: 8 << 20}

// Pins is the Source of pins.
func (s *Store) Pins() Source {
	return Source{
		Folder: "pins",
		Files:  func() ([]string, error) { return s.JSONFiles("pins") },
		Read:   readPin,
	}
}

func readPin(path string) (Root, error) {
	b, err := pinDocument.Read(path)
	if err != nil {
		return Root{}, err
	}
	r := Root{Kind: "pin", ID: strings.TrimSuffix(filepath.Base(path), ".json")}
	var p pin
	err = durable.DecodeAll(b, &p)
	switch {
	case err != nil:
		return r, failure.New(failure.Damaged, "%s: %w", path, err)
	case p.Version < 0 || p.Version > 1:
		return r, failure.New(failure.Damaged, "%s has version %d", path, p.Version)
	case p.ID != "" && p.ID != r.ID:
		return r, failure.New(failure.Damaged, "%s is that of %q", path, p.ID)
	case len(p.Digests)+len(p.Images) == 0:
		return r, failure.New(failure.Damaged, "%s pins nothing", path)
	}
	r.Name, r.Digests = p.Name, append(p.Digests, p.Images...)
	return r, nil
}

// checkID refuses what no snapshot or VM is called.
func checkID(what, id string) error {
	if !spelling.ID(id) {
		return failure.New(failure.Damaged, "%s %.80q", what, id)
	}
	return nil
}
