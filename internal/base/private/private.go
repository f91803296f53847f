// Package private checks that a folder is ours alone: only root and we can add or
// remove entries, or redirect its path.
//
// Words: a way is every folder and link that the kernel passes on a path from "/"
// to the folder, including those that links lead through; to resolve a path is to
// follow it once and to use the result, which contains no link.
//
// A way is safe when
//
//   - each folder on it belongs to root or to us,
//   - others cannot write to it, or it is sticky (/tmp), so that users can rename
//     or remove only their own entries,
//   - each link on it belongs to root or to us.
//
// Others means everybody by the mode's last three bits, and a group unless it is
// root's. A folder is ours alone if its way is safe, it belongs to us, and nobody
// else has any permission on it.
//
// A safe way stays safe, since only root or we could change it. So a resolved
// path may be used as a path; no descriptor needs to be kept.
package private

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"
)

// Refusal says what is wrong with a folder and how to fix it.
type Refusal struct {
	Path   string // of the folder or link that is at fault
	Why    string
	Remedy string

	Open bool // the only fault: others have permissions they must not have
	Kind bool // it is no folder
}

func (r *Refusal) Error() string { return r.Path + " " + r.Why }

// maxLinks is how many links the kernel follows on one path.
const maxLinks = 40

// Resolve follows a path, whose last part may not exist yet, and returns where it
// leads. A *Refusal if the way is not safe.
func Resolve(path string) (string, error) {
	path, err := filepath.Abs(path)
	if err != nil {
		return "", err
	}
	at, rest := "/", split(path)
	for links := 0; len(rest) > 0; {
		name := rest[0]
		if name == ".." {
			at, rest = filepath.Dir(at), rest[1:]
			continue
		}
		if err := passable(at); err != nil {
			return "", err
		}
		next := filepath.Join(at, name)
		fi, err := os.Lstat(next)
		if errors.Is(err, fs.ErrNotExist) {
			return filepath.Join(append([]string{at}, rest...)...), nil
		}
		if err != nil {
			return "", err
		}
		if fi.Mode()&fs.ModeSymlink == 0 {
			at, rest = next, rest[1:]
			continue
		}
		if links++; links > maxLinks {
			return "", &fs.PathError{Op: "resolve", Path: path, Err: syscall.ELOOP}
		}
		target, err := follow(next, fi)
		if err != nil {
			return "", err
		}
		if filepath.IsAbs(target) {
			at = "/"
		}
		rest = append(split(target), rest[1:]...)
	}
	return at, nil
}

// split returns the names of a path; ".." stays, since after a link the kernel
// resolves it there.
func split(path string) []string {
	return strings.FieldsFunc(path, func(r rune) bool { return r == '/' })
}

// passable: nobody else can redirect the way through this folder.
func passable(path string) error {
	fi, err := os.Lstat(path)
	if err != nil {
		return err
	}
	if !fi.IsDir() {
		return &fs.PathError{Op: "resolve", Path: path, Err: syscall.ENOTDIR}
	}
	st := statOf(fi)
	if !trusted(st.Uid) {
		return &Refusal{
			Path: path, Why: fmt.Sprintf("belongs to user %d, who could exchange what is below it", st.Uid),
			Remedy: "chown root " + path + ", or choose a folder elsewhere",
		}
	}
	if fi.Mode()&fs.ModeSticky == 0 && writable(fi) {
		return &Refusal{
			Path: path, Why: fmt.Sprintf("can be written to by others (%s), who could exchange what is below it", fi.Mode().Perm()),
			Remedy: "chmod go-w " + path + ", or choose a folder elsewhere",
		}
	}
	return nil
}

func follow(path string, fi fs.FileInfo) (target string, err error) {
	if st := statOf(fi); !trusted(st.Uid) {
		return "", &Refusal{Path: path, Why: fmt.Sprintf("is a link of user %d", st.Uid), Remedy: "remove it, or choose a folder elsewhere"}
	}
	return os.Readlink(path)
}

// writable says whether others may make and remove entries.
func writable(fi fs.FileInfo) bool {
	mode, st := fi.Mode().Perm(), statOf(fi)
	return mode&0o002 != 0 || mode&0o020 != 0 && st.Gid != 0
}

func trusted(uid uint32) bool { return uid == 0 || int(uid) == os.Geteuid() }

// statOf asserts the type that os.Lstat always returns on this host.
func statOf(fi fs.FileInfo) *syscall.Stat_t { return fi.Sys().(*syscall.Stat_t) }

// Folder refuses a folder that is not ours, or on which others have one of these
// permissions. Resolve checks its way; a link is refused, a missing folder is
// fs.ErrNotExist.
func Folder(path string, rights fs.FileMode) error {
	fi, err := os.Lstat(path)
	if err != nil {
		return err
	}
	return Opened(path, fi, rights)
}

// Opened is Folder for one that was already stat'ed.
func Opened(path string, fi fs.FileInfo, rights fs.FileMode) error {
	if !fi.IsDir() {
		return &Refusal{Path: path, Why: "is not a folder", Remedy: "choose another path", Kind: true}
	}
	if st := statOf(fi); int(st.Uid) != os.Geteuid() {
		return &Refusal{Path: path, Why: fmt.Sprintf("belongs to user %d", st.Uid), Remedy: fmt.Sprintf("chown %d %s", os.Geteuid(), path)}
	}
	if fi.Mode()&fs.ModeSticky != 0 && writable(fi) { // shared on purpose
		return &Refusal{Path: path, Why: "is a folder for everybody", Remedy: "choose a separate folder, such as one below it"}
	}
	if fi.Mode().Perm()&rights != 0 {
		return &Refusal{Path: path, Why: fmt.Sprintf("is open to others (%s)", fi.Mode().Perm()), Remedy: "chmod 700 " + path, Open: true}
	}
	return nil
}

// Others are all permissions that only the owner may have on a folder that is
// ours alone.
const Others fs.FileMode = 0o077
