package store

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"os"

	"golang.org/x/sys/unix"
)

// Offsets in struct linux_dirent64, see getdents64(2).
const (
	direntInode  = 0
	direntLength = 16
	direntName   = 19
)

// Inodes gives the inode of every snapshot folder, from the listing alone: no
// folder is looked at. Others' files are not ours to judge.
func (s *Store) Inodes() (map[ID]uint64, error) {
	f, err := os.Open(s.Path("snapshots"))
	if err != nil {
		return nil, fmt.Errorf("list snapshots: %w", err)
	}
	defer f.Close()
	found := map[ID]uint64{}
	for buf := make([]byte, 256<<10); ; {
		n, err := unix.Getdents(int(f.Fd()), buf)
		if err == unix.EINTR {
			continue
		}
		if err != nil {
			return nil, fmt.Errorf("list snapshots: %w", err)
		}
		if n == 0 {
			return found, nil
		}
		for b := buf[:n]; len(b) > 0; {
			length := binary.NativeEndian.Uint16(b[direntLength:])
			name, _, _ := bytes.Cut(b[direntName:length], []byte{0})
			if validID(string(name)) {
				found[ID(name)] = binary.NativeEndian.Uint64(b[direntInode:])
			}
			b = b[length:]
		}
	}
}
