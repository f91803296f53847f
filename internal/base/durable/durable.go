// Package durable makes changes to the file system that survive a power cut,
// and names the places where a crash is worth testing.
//
// Words: an effect is durable when both the bytes of a file and the folder
// entry that names it were fsynced. Publish is a rename that cannot overwrite.
// Trash is a rename out of sight; unlinking is done later, outside any lock,
// because the unlink of a large file takes long.
//
// Invariants:
//
//  1. A name never shows a half-written file: contents are fsynced under another
//     name in the same folder and renamed. [Document.WriteLoose] does so without
//     the fsync.
//
//  2. A function that returns nil has fsynced every folder whose entries it
//     changed; [Rename], [Replace], [Exchange] and [Trash] are the exceptions,
//     for callers that hold a lock for an instant and fsync after releasing it.
//
//  3. An fsync that failed is never repeated on the same file: the kernel may
//     have dropped the dirty pages already. The caller discards the file.
//
//  4. Only a regular file is ever replaced.
//
// [Step] is the other half: code calls it between its durable effects, and a
// test that sets COCOON_KILL_AT dies by SIGKILL exactly there.
package durable

import (
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"

	"github.com/cocoonv2/cocoon/internal/base/failure"
)

// writeFile: see Document.Write.
func writeFile(path string, data []byte, perm os.FileMode) error {
	f, err := stageBy(path, perm, func(*os.File) ([]byte, error) { return data, nil })
	if err != nil {
		return err
	}
	if err := f.Rename(); err != nil {
		return errors.Join(err, f.Drop())
	}
	return SyncDir(filepath.Dir(path))
}

// Publish renames oldpath to newpath and fsyncs both parents. It never replaces
// anything: os.ErrExist when newpath is taken. The caller has fsynced what is
// at oldpath.
func Publish(oldpath, newpath string) error {
	if err := Rename(oldpath, newpath); err != nil {
		return err
	}
	return SyncParents(oldpath, newpath)
}

// Rename is Publish without the fsyncs: SyncParents must follow.
func Rename(oldpath, newpath string) error {
	err := unix.Renameat2(unix.AT_FDCWD, oldpath, unix.AT_FDCWD, newpath, unix.RENAME_NOREPLACE)
	if err != nil {
		return &os.LinkError{Op: "publish", Old: oldpath, New: newpath, Err: err}
	}
	return nil
}

// Replace renames from to to, replacing a regular file or nothing: a device, a
// pipe, a link or a folder stays (failure.Damaged). SyncParents must follow. No
// other rename replaces.
func Replace(from, to string) error {
	if err := replaceable(os.Lstat(to)); err != nil {
		return fmt.Errorf("replace %s: %w", to, err)
	}
	return os.Rename(from, to)
}

func replaceable(there fs.FileInfo, err error) error {
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err == nil && !there.Mode().IsRegular() {
		return failure.New(failure.Damaged, "it is no regular file, but %s", there.Mode())
	}
	return err
}

// Target refuses, before anything is done, a user's path that no file can be put
// to: failure.Usage.
func Target(path string) error {
	if err := replaceable(os.Lstat(path)); err != nil {
		return failure.New(failure.Usage, "%s: %w", path, err)
	}
	if fi, err := os.Stat(filepath.Dir(path)); err != nil || !fi.IsDir() {
		return failure.New(failure.Usage, "%s is to be made in a folder that is not there", path)
	}
	return nil
}

// Exchange swaps two names in one step: neither is ever missing. SyncParents must
// follow. failure.Incompatible if the file system cannot.
func Exchange(a, b string) error {
	err := unix.Renameat2(unix.AT_FDCWD, a, unix.AT_FDCWD, b, unix.RENAME_EXCHANGE)
	if errors.Is(err, unix.EINVAL) || errors.Is(err, unix.ENOSYS) {
		return failure.New(failure.Incompatible, "the file system of %s cannot exchange two names: %w", b, err)
	}
	if err != nil {
		return &os.LinkError{Op: "exchange", Old: a, New: b, Err: err}
	}
	return nil
}

// Trash renames path to a fresh name below trashDir and returns that name. It
// fsyncs nothing: a power cut may bring the entry back.
func Trash(path, trashDir string) (string, error) {
	var tail [8]byte
	rand.Read(tail[:]) // never fails: crypto/rand aborts the process instead
	to := filepath.Join(trashDir, filepath.Base(path)+"."+hex.EncodeToString(tail[:]))
	if err := os.Rename(path, to); err != nil {
		return "", fmt.Errorf("move to trash: %w", err)
	}
	return to, nil
}

// SyncParents fsyncs the folders of two names, the second first: after a
// rename from a to b nothing is lost by a crash between the two.
func SyncParents(a, b string) error {
	dirA, dirB := filepath.Dir(a), filepath.Dir(b)
	if err := SyncDir(dirB); err != nil || dirA == dirB {
		return err
	}
	return SyncDir(dirA)
}

// Mkdir makes path and its missing parents, and fsyncs the parent of each entry
// it made. An existing folder is success; its mode is left alone.
func Mkdir(path string, perm os.FileMode) error {
	if st, err := os.Stat(path); err == nil {
		if st.IsDir() {
			return nil
		}
		return &os.PathError{Op: "mkdir", Path: path, Err: unix.ENOTDIR}
	}
	parent := filepath.Dir(path)
	if parent != path {
		if err := Mkdir(parent, perm); err != nil {
			return err
		}
	}
	if err := os.Mkdir(path, perm); err != nil && !errors.Is(err, fs.ErrExist) {
		return err
	}
	return SyncDir(parent)
}

// SyncDir fsyncs the entries of one folder.
func SyncDir(path string) error { return syncPath(path, unix.O_DIRECTORY) }

// SyncTree fsyncs every regular file and folder below dir, then dir itself.
// Symbolic links are not followed.
func SyncTree(dir string) error {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return fmt.Errorf("sync %s: %w", dir, err)
	}
	for _, e := range entries {
		path := filepath.Join(dir, e.Name())
		switch {
		case e.IsDir():
			err = SyncTree(path)
		case e.Type().IsRegular():
			err = syncPath(path, 0)
		}
		if err != nil {
			return err
		}
	}
	return SyncDir(dir)
}

func syncPath(path string, flags int) error {
	f, err := os.OpenFile(path, os.O_RDONLY|unix.O_NOFOLLOW|flags, 0)
	if err != nil {
		return fmt.Errorf("sync: %w", err)
	}
	defer f.Close()
	// Some file systems cannot fsync a folder and say EINVAL: nothing to wait for.
	if err := f.Sync(); err != nil && !(flags != 0 && errors.Is(err, unix.EINVAL)) {
		return fmt.Errorf("sync: %w", err)
	}
	return nil
}

// IgnoreMissing takes an error that says that there is no such file for none.
func IgnoreMissing(err error) error {
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return err
}

// CannotWrite says that the file system has no room or is read-only.
func CannotWrite(err error) bool {
	return errors.Is(err, unix.EROFS) || errors.Is(err, unix.ENOSPC) || errors.Is(err, unix.EDQUOT)
}
