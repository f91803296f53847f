package store

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"

	"github.com/cocoonv2/cocoon/internal/failure"
)

// othersBits are the permissions that nobody but root may have on a folder that
// holds the RAM and disks of guests.
const othersBits = 0o077

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

// checkFolder refuses a folder on which others have one of these permissions, or
// that is somebody else's or a link; one that is missing is made later.
func checkFolder(path string, bits os.FileMode) error {
	fi, err := os.Lstat(path)
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("open store: %w", err)
	}
	if !fi.IsDir() {
		return failure.New(failure.Usage, "store %s is not a folder", path)
	}
	if st, ok := fi.Sys().(*syscall.Stat_t); ok && int(st.Uid) != os.Geteuid() {
		return failure.Hint(failure.New(failure.Incompatible, "store folder %s belongs to user %d", path, st.Uid), fmt.Sprintf("chown %d %s", os.Geteuid(), path))
	}
	if fi.Mode().Perm()&bits != 0 {
		return failure.Hint(failure.New(failure.Incompatible, "store folder %s is open to others (%s): guests' RAM and disks lie there", path, fi.Mode().Perm()),
			"chmod 700 "+path+", or cocoon system doctor --fix")
	}
	return nil
}

// MakePrivate takes from others what Open refuses, and answers the folders that
// were open. It touches nothing that is no store of ours.
func MakePrivate(root string) (mended []string, err error) {
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
		if st, ok := fi.Sys().(*syscall.Stat_t); !ok || !fi.IsDir() || int(st.Uid) != os.Geteuid() || fi.Mode().Perm()&othersBits == 0 {
			continue
		}
		if err := os.Chmod(path, 0o700); err != nil {
			return mended, err
		}
		mended = append(mended, path)
	}
	return mended, nil
}
