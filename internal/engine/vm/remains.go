package vm

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

// makingFile in the folder of a VM says that the VM is being made: it comes before
// the first disk and goes when the record is there. So a folder with disks, without
// a record and without this was a VM that has lost its record.
const makingFile = "making"

func (m *Manager) makingPath(id string) string { return filepath.Join(m.Dir(id), makingFile) }

// Remains is what is in the folder of a VM.
type Remains struct {
	Recorded bool // the VM exists
	Making   bool // nobody is sure to have seen it whole
	Worth    bool // there is what cannot be made again, such as a disk
}

// LookAt looks into the folder of a VM; one that is gone has nothing in it.
func LookAt(dir string) (Remains, error) {
	entries, err := os.ReadDir(dir)
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return Remains{}, fmt.Errorf("look at the folder of a VM: %w", err)
	}
	var r Remains
	for _, e := range entries {
		switch name := e.Name(); {
		case name == recordName:
			r.Recorded = true
		case name == makingFile:
			r.Making = true
		case name == lockFile || slices.Contains(memoryFiles, name) || strings.HasPrefix(name, ".tmp-"):
		default:
			r.Worth = true
		}
	}
	return r, nil
}

// forgotten is a note of a creation that ended, beside the record of its VM; ""
// where there is none.
func forgotten(dir string) string {
	path := filepath.Join(dir, makingFile)
	if r, err := LookAt(dir); err == nil && r.Recorded && r.Making {
		return path
	}
	return ""
}
