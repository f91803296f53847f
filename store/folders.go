package store

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"slices"

	"golang.org/x/sys/unix"

	"github.com/cocoonv2/cocoon/internal/base/spelling"
)

// Offsets in struct linux_dirent64, see getdents64(2).
const (
	direntInode  = 0
	direntLength = 16
	direntName   = 19
)

// listingBytes is what is asked of the kernel at once: some 6,000 entries.
const listingBytes = 256 << 10

// EachEntry visits the entries of a folder in the order in which the file system
// has them, from the listing alone: nothing is looked at. The name is valid during
// the visit only.
func EachEntry(folder string, visit func(name []byte, inode uint64)) error {
	f, err := os.Open(folder)
	if err != nil {
		return err
	}
	defer f.Close()
	for buf := make([]byte, listingBytes); ; {
		n, err := unix.Getdents(int(f.Fd()), buf)
		if errors.Is(err, unix.EINTR) {
			continue
		}
		if err != nil {
			return &os.PathError{Op: "list", Path: folder, Err: err}
		}
		if n == 0 {
			return nil
		}
		for b := buf[:n]; len(b) > 0; {
			length := binary.NativeEndian.Uint16(b[direntLength:])
			name, _, _ := bytes.Cut(b[direntName:length], []byte{0})
			if string(name) != "." && string(name) != ".." {
				visit(name, binary.NativeEndian.Uint64(b[direntInode:]))
			}
			b = b[length:]
		}
	}
}

// eachFolder visits the snapshot folders; others' files are not ours to judge.
func (s *Store) eachFolder(visit func(name []byte, inode uint64)) error {
	err := EachEntry(s.Path("snapshots"), func(name []byte, inode uint64) {
		if spelling.ID(name) {
			visit(name, inode)
		}
	})
	if err != nil {
		return fmt.Errorf("list snapshots: %w", err)
	}
	return nil
}

// IDs lists the snapshot folders, sorted.
func (s *Store) IDs() ([]ID, error) {
	var ids []ID
	err := s.eachFolder(func(name []byte, _ uint64) { ids = append(ids, ID(name)) })
	slices.Sort(ids)
	return ids, err
}

// Inodes gives the inode of every snapshot folder.
func (s *Store) Inodes() (map[ID]uint64, error) {
	found := map[ID]uint64{}
	err := s.eachFolder(func(name []byte, inode uint64) { found[ID(name)] = inode })
	return found, err
}
