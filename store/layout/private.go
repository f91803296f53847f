package layout

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"

	"github.com/cocoonv2/cocoon/internal/base/failure"
	"github.com/cocoonv2/cocoon/internal/base/hint"
	"github.com/cocoonv2/cocoon/internal/base/private"
)

// guarded are the root folder and every folder below it that others could enter
// if it were open. What lies in them is made 0700 and 0600, and is not walked.
func guarded(root string) []string {
	all := []string{root}
	for _, f := range Folders() {
		path := root
		for part := range strings.SplitSeq(f, "/") {
			path = filepath.Join(path, part)
			all = append(all, path)
		}
	}
	return all
}

// resolve follows a root to where the store lies. Who could lead the way elsewhere
// has the store.
func resolve(root string) (string, error) {
	if root == "" { // the working folder is nobody's choice
		return "", failure.New(failure.Usage, "no folder is named for the store")
	}
	at, err := private.Resolve(root)
	var r *private.Refusal
	if errors.As(err, &r) {
		return "", failure.Hint(failure.New(failure.Incompatible, "store %s: %w", root, r), r.Remedy)
	}
	if err != nil {
		return "", fmt.Errorf("open store: %w", err)
	}
	return at, nil
}

// checkFolder refuses a folder on which others have one of these permissions, or
// that is somebody else's or a link; one that is missing is made later.
func checkFolder(path string, bits os.FileMode) error {
	err := private.Folder(path, bits)
	var r *private.Refusal
	switch {
	case errors.Is(err, os.ErrNotExist):
		return nil
	case !errors.As(err, &r):
		if err != nil {
			return fmt.Errorf("open store: %w", err)
		}
		return nil
	case r.Open:
		return failure.Hint(failure.New(failure.Incompatible, "store folder %w: guests' RAM and disks lie there", r), r.Remedy+", or "+hint.DoctorFix.Of())
	case r.Kind:
		return failure.Hint(failure.New(failure.Usage, "store %w", r), "choose another folder with "+hint.RootDir.Of())
	}
	return failure.Hint(failure.New(failure.Incompatible, "store folder %w", r), r.Remedy)
}

// insteadOf is the remedy where something else stands in the place of a folder of
// the store. Names and caches follow from the rest; nothing else is given up.
func insteadOf(path string) string {
	switch filepath.Base(path) {
	case Names, "cache", "memory", "fingerprints":
		return "move it out of the store: " + path + " is made again by the next command"
	}
	return "put the folder back there; another volume is mounted there, not linked to"
}

// MakePrivate takes from others what Open refuses, and answers the folders that
// were open. It touches nothing that is no store of ours.
func MakePrivate(root string) (mended []string, err error) {
	if root, err = resolve(root); err != nil {
		return nil, err
	}
	if fi, err := os.Lstat(filepath.Join(root, "format")); err != nil || !fi.Mode().IsRegular() {
		return nil, nil
	}
	for _, path := range guarded(root) {
		fi, err := os.Lstat(path)
		if errors.Is(err, os.ErrNotExist) {
			continue
		}
		if err != nil {
			return mended, err
		}
		if st, ok := fi.Sys().(*syscall.Stat_t); !ok || !fi.IsDir() || int(st.Uid) != os.Geteuid() || fi.Mode().Perm()&private.Others == 0 {
			continue
		}
		if err := os.Chmod(path, 0o700); err != nil {
			return mended, err
		}
		mended = append(mended, path)
	}
	return mended, nil
}
