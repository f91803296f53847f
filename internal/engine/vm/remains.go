package vm

import (
	"fmt"
	"path/filepath"
	"slices"
	"strings"

	"github.com/cocoonv2/cocoon/internal/base/durable"
)

// makingFile in the folder of a VM says that the VM is being made: it is created
// before the first disk and removed once the record exists. So a folder with
// disks, but without a record and without this file, was a VM that has lost its
// record.
const makingFile = "making"

func (m *Manager) makingPath(id string) string { return filepath.Join(m.Dir(id), makingFile) }

// Remains is what is in the folder of a VM.
type Remains struct {
	Recorded bool // the VM exists
	Making   bool // the VM may never have been complete
	Worth    bool // it contains something irreplaceable, such as a disk
}

// LookAt examines the folder of a VM; a missing one has nothing in it.
func LookAt(dir string) (Remains, error) {
	entries, err := durable.Entries(dir)
	if err != nil {
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

// forgotten is a creation note left beside the record of its VM; "" if there is
// none.
func forgotten(dir string) string {
	path := filepath.Join(dir, makingFile)
	if r, err := LookAt(dir); err == nil && r.Recorded && r.Making {
		return path
	}
	return ""
}
