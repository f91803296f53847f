// Package owner determines which store owns something outside of it: run folders,
// staged RAM, network namespaces, processes. Several stores share one host, one
// of them may be a copy of another, and each must leave alone what belongs to
// another.
//
// Words: the identity of a store is a random id in its file "identity", together
// with the place where it was given: the inode of the store's folder, the inode
// of the file itself and the file's birth time. A mark is written beside
// everything made outside: the id, the store's folder by number and by path at
// that time, and the boot of the host.
//
// Invariants:
//
//  1. An id is believed only at the place where it was given. A copy of the files
//     (cp, rsync, a restored backup, reflinks, hard links) is at another place
//     and takes a new id; a rename within the file system, another mount point
//     and a reboot change no inode, and keep it.
//  2. A copy of the whole block device has the same id, inodes and times. While
//     both exist the kernel gives them different device numbers, so a mark is
//     ours only if that agrees too, as long as the host was not rebooted.
//  3. The owner of something without a mark (older programs made none) is never
//     guessed: it is left alone, or the kernel is asked which process holds its
//     files open.
package owner

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"

	"github.com/cocoonv2/cocoon/internal/base/durable"
	"github.com/cocoonv2/cocoon/internal/base/failure"
	"github.com/cocoonv2/cocoon/internal/base/spelling"
)

// Mark says which store made something. The zero value belongs to none.
type Mark struct {
	Store  string `json:"store"`  // id
	Device uint64 `json:"device"` // of the store's folder
	Inode  uint64 `json:"inode"`
	Root   string `json:"root"` // path of it
	Boot   string `json:"boot"`
}

// Owns reports whether an object with the other mark was made by the store of
// this one. Device numbers mean something within one boot only; after a reboot
// nothing marked before can be alive. Within a boot they change when a disk is
// mounted again, in the same place as before.
func (m Mark) Owns(other Mark) bool {
	if m.Store == "" || m.Store != other.Store {
		return false
	}
	return m.Boot != other.Boot || m.SameFolder(other) || m.isAt(other.Root)
}

// SameFolder reports whether both marks are of the same folder on the same
// device.
func (m Mark) SameFolder(other Mark) bool {
	return m.Device == other.Device && m.Inode == other.Inode
}

func (m Mark) isAt(root string) bool {
	fi, err := os.Stat(root)
	if err != nil {
		return false
	}
	st := fi.Sys().(*syscall.Stat_t)
	return m.Device == st.Dev && m.Inode == st.Ino
}

// Gone reports whether the store of a mark is no longer where it was: it was
// moved, is not mounted, or its folder was removed.
func (m Mark) Gone() bool {
	id, err := Read(m.Root)
	return err == nil && id != m.Store
}

// Inherits reports whether the store of this mark may take over an object with
// the other mark that is its own by all other evidence: no other store claims it.
func (m Mark) Inherits(other Mark) bool {
	return m.Store != "" && (m.Owns(other) || other.Store != "" && other.Gone())
}

// tagDigits are enough to distinguish the stores of a host.
const tagDigits = 12

// Tag is a mark for objects that have only a name.
func (m Mark) Tag() string {
	sum := sha256.Sum256(fmt.Appendf(nil, "%s %d %d", m.Store, m.Device, m.Inode))
	return hex.EncodeToString(sum[:])[:tagDigits]
}

// IsTag distinguishes a tag from other parts of a name.
func IsTag(s string) bool { return spelling.Hex(s, tagDigits) }

func (m Mark) String() string {
	if m.Store == "" {
		return "an unknown store"
	}
	return fmt.Sprintf("store %s (%.12s)", m.Root, m.Store)
}

var markFile = durable.Document{Name: "mark of a store", Limit: 16 << 10}

// WriteMark writes a mark to a file of a folder.
func WriteMark(folder *os.Root, name string, m Mark) error {
	b, err := json.Marshal(m)
	if err != nil {
		return err
	}
	return markFile.WriteIn(folder, name, b, 0o600)
}

// Decode reads a mark; failure.Damaged if it is none.
func Decode(b []byte) (Mark, error) {
	var m Mark
	if err := json.Unmarshal(b, &m); err != nil || !spelling.ID(m.Store) || markFile.Check(b) != nil {
		return Mark{}, failure.New(failure.Damaged, "%.80q names no store", b)
	}
	return m, nil
}

// At makes the mark of the store with this id in this folder.
func At(root, id string) (Mark, error) {
	fi, err := os.Stat(root)
	if err != nil {
		return Mark{}, err
	}
	st := fi.Sys().(*syscall.Stat_t)
	return Mark{id, st.Dev, st.Ino, root, Boot()}, nil
}

// ReadMark reads a mark from a file of a folder. Too long a file is none.
func ReadMark(folder *os.Root, name string) (Mark, error) {
	b, err := markFile.ReadIn(folder, name)
	if err != nil {
		return Mark{}, err
	}
	return Decode(b)
}

// Boot identifies the current boot of this host's kernel, "" if unknown. Pids,
// start times and device numbers mean nothing beyond it.
var Boot = sync.OnceValue(func() string {
	b, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	if err != nil {
		return ""
	}
	return strings.TrimSpace(string(b))
})

// File is the name of a store's identity in its folder.
const File = "identity"

func path(root string) string { return filepath.Join(root, File) }
