package owner

import (
	"path/filepath"
	"strings"

	"github.com/cocoonv2/cocoon/internal/base/spelling"
)

// StagingFolder is where RAM is staged if it fits, outside every store.
const StagingFolder = "/dev/shm"

// The kinds of staged RAM.
const (
	OfCapture = "staging"
	OfRestore = "restore"
)

// StagingPrefix begins the name of a folder with the RAM of a VM; a random part
// follows. The VMM fills such a folder, so the mark is in its name:
//
//	cocoon-KIND-VM-TAG-RANDOM
//
// Older programs wrote no TAG.
func (m Mark) StagingPrefix(kind, vm string) string {
	return "cocoon-" + kind + "-" + vm + "-" + m.Tag() + "-"
}

// RoomPath is where the VMM of a VM may write its RAM there, as long as the VMM
// lives.
func (m Mark) RoomPath(vm string) string {
	return filepath.Join(StagingFolder, "cocoon-room-"+m.Tag()+"-"+vm)
}

// Rooms lists the folders of RoomPath of this store, by VM.
func (m Mark) Rooms() (map[string]string, error) {
	found, err := filepath.Glob(m.RoomPath("*"))
	rooms := map[string]string{}
	for _, path := range found {
		if vm := path[strings.LastIndexByte(path, '-')+1:]; spelling.ID(vm) {
			rooms[vm] = path
		}
	}
	return rooms, err
}

// Staged lists the folders with staged RAM of all stores.
func Staged() ([]string, error) {
	var all []string
	for _, kind := range []string{OfCapture, OfRestore} {
		found, err := filepath.Glob(filepath.Join(StagingFolder, "cocoon-"+kind+"-*"))
		if err != nil {
			return nil, err
		}
		all = append(all, found...)
	}
	return all, nil
}

// ParseStaging returns the VM and the tag of such a folder, "" for a missing tag.
func ParseStaging(path string) (vm, tag string, ok bool) {
	part := strings.Split(filepath.Base(path), "-")
	switch {
	case len(part) == 5 && spelling.ID(part[2]) && IsTag(part[3]):
		return part[2], part[3], true
	case len(part) == 4 && spelling.ID(part[2]):
		return part[2], "", true
	}
	return "", "", false
}
