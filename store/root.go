package store

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/opencontainers/go-digest"

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

// checkID refuses what no snapshot or VM is called.
func checkID(what, id string) error {
	if !spelling.ID(id) {
		return failure.New(failure.Damaged, "%s %.80q", what, id)
	}
	return nil
}
