package account

import (
	"cmp"
	"fmt"
	"io/fs"
	"path/filepath"
	"slices"

	"golang.org/x/sys/unix"
)

// Place identifies a folder, so that a copy, a mount point without its volume, or
// another volume mounted on it has a different one. Device numbers change with
// each boot, so they only show which folders are on the same file system.
type Place struct {
	Inode uint64 `json:"inode"`
	Born  int64  `json:"born,omitempty"` // ns since 1970; 0 where the file system does not say
	Group int    `json:"group"`          // 0 with the root folder
}

// Here stands for the store's own folder among the others.
const Here = "."

// Places identifies root and the folders below it, by their paths; a missing one
// has none.
func Places(root string, folders []string) (map[string]Place, error) {
	type device struct{ major, minor uint32 }
	groups := map[device]int{}
	places := map[string]Place{}
	for _, folder := range slices.SortedFunc(slices.Values(append([]string{Here}, folders...)), cmp.Compare) {
		var st unix.Statx_t
		path := filepath.Join(root, folder)
		err := unix.Statx(unix.AT_FDCWD, path, unix.AT_SYMLINK_NOFOLLOW, unix.STATX_INO|unix.STATX_BTIME|unix.STATX_TYPE, &st)
		if err == unix.ENOENT {
			continue
		}
		if err != nil {
			return nil, &fs.PathError{Op: "statx", Path: path, Err: err}
		}
		on := device{st.Dev_major, st.Dev_minor}
		if _, known := groups[on]; !known {
			groups[on] = len(groups)
		}
		if st.Mode&unix.S_IFMT != unix.S_IFDIR {
			continue
		}
		p := Place{Inode: st.Ino, Group: groups[on]}
		if st.Mask&unix.STATX_BTIME != 0 {
			p.Born = st.Btime.Sec*1e9 + int64(st.Btime.Nsec)
		}
		places[folder] = p
	}
	return places, nil
}

// Copied reports that the whole store is a different one from the noted: a copy,
// or one restored from a backup. Then every folder below differs too.
func Copied(was, now map[string]Place) bool {
	a, known := was[Here]
	b, there := now[Here]
	return known && there && a.other(b)
}

// As gives a folder of a copied store the identity that it has there.
func (p Place) As(now Place) Place {
	p.Inode, p.Born = now.Inode, now.Born
	return p
}

func (p Place) other(now Place) bool {
	return p.Inode != now.Inode || p.Born != 0 && now.Born != 0 && p.Born != now.Born
}

// Differs says in words how a folder differs from the noted one, "" if it does
// not.
func Differs(folder string, was, now Place, there bool) string {
	switch {
	case !there:
		return fmt.Sprintf("folder %s is missing", folder)
	case was.Group != now.Group:
		return fmt.Sprintf("folder %s is on another file system than it was: a volume is not mounted, or another one is", folder)
	case was.other(now):
		return fmt.Sprintf("folder %s is not the same as before: it was copied, restored or recreated", folder)
	}
	return ""
}
