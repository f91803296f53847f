package store

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"slices"

	"golang.org/x/sys/unix"
)

// Offsets in struct linux_dirent64, see getdents64(2).
const (
	direntInode  = 0
	direntLength = 16
	direntName   = 19
)

// listingBytes is what is asked of the kernel at once: some 6,000 entries.
const listingBytes = 256 << 10

// eachFolder visits the snapshot folders in the order in which the file system
// has them, from the listing alone: no folder is looked at. Others' files are not
// ours to judge. The name is valid during the visit only.
func (s *Store) eachFolder(visit func(name []byte, inode uint64)) error {
	f, err := os.Open(s.Path("snapshots"))
	if err != nil {
		return fmt.Errorf("list snapshots: %w", err)
	}
	defer f.Close()
	for buf := make([]byte, listingBytes); ; {
		n, err := unix.Getdents(int(f.Fd()), buf)
		if errors.Is(err, unix.EINTR) {
			continue
		}
		if err != nil {
			return fmt.Errorf("list snapshots: %w", err)
		}
		if n == 0 {
			return nil
		}
		for b := buf[:n]; len(b) > 0; {
			length := binary.NativeEndian.Uint16(b[direntLength:])
			name, _, _ := bytes.Cut(b[direntName:length], []byte{0})
			if validID(name) {
				visit(name, binary.NativeEndian.Uint64(b[direntInode:]))
			}
			b = b[length:]
		}
	}
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
