package owner

import (
	"crypto/rand"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"

	"github.com/cocoonv2/cocoon/internal/base/durable"
	"github.com/cocoonv2/cocoon/internal/base/failure"
	"github.com/cocoonv2/cocoon/internal/base/spelling"
)

// identity is the contents of File.
type identity struct {
	ID string `json:"id"`
	place
}

// place identifies the files so that no copy has the same.
type place struct {
	Folder uint64 `json:"folder"` // inode
	File   uint64 `json:"file"`   // inode
	Born   int64  `json:"born"`   // of the file, ns since 1970; 0 where the file system does not say
}

func placeOf(root string, file *os.File) (place, error) {
	var dir, st unix.Statx_t
	if err := unix.Statx(unix.AT_FDCWD, root, 0, unix.STATX_INO, &dir); err != nil {
		return place{}, &fs.PathError{Op: "statx", Path: root, Err: err}
	}
	if err := unix.Statx(int(file.Fd()), "", unix.AT_EMPTY_PATH, unix.STATX_INO|unix.STATX_BTIME, &st); err != nil {
		return place{}, &fs.PathError{Op: "statx", Path: file.Name(), Err: err}
	}
	p := place{Folder: dir.Ino, File: st.Ino}
	if st.Mask&unix.STATX_BTIME != 0 {
		p.Born = st.Btime.Sec*1e9 + int64(st.Btime.Nsec)
	}
	return p, nil
}

var identityFile = durable.Document{Name: File, Limit: 4096}

// Read returns the id of the store in a folder, "" if none was given there.
func Read(root string) (string, error) {
	folder, err := os.OpenRoot(root)
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, unix.ENOTDIR) {
		return "", nil
	}
	if err != nil {
		return "", fmt.Errorf("read the identity of store %s: %w", root, err)
	}
	defer folder.Close()
	id, err := readIn(folder)
	if err != nil {
		return "", fmt.Errorf("read the identity of store %s: %w", root, err)
	}
	return id, nil
}

func readIn(folder *os.Root) (string, error) {
	f, err := durable.OpenRegular(folder, File)
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, failure.Damaged) {
		return "", nil
	}
	if err != nil {
		return "", err
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, identityFile.Limit))
	if err != nil {
		return "", err
	}
	here, err := placeOf(folder.Name(), f)
	if err != nil {
		return "", err
	}
	var was identity
	if json.Unmarshal(b, &was) != nil || !spelling.ID(was.ID) || was.place != here {
		return "", nil
	}
	return was.ID, nil
}

// Give ensures that the store in a folder has an id, and returns it. The caller
// prevents concurrent calls. A crash leaves the old file or the new one.
func Give(root string) (string, error) {
	if id, err := Read(root); err != nil || id != "" {
		return id, err
	}
	var random [16]byte
	rand.Read(random[:]) // never fails: crypto/rand aborts the process instead
	id := identity{ID: hex.EncodeToString(random[:])}
	f, err := identityFile.StageBy(path(root), 0o600, func(f *os.File) (b []byte, err error) {
		if id.place, err = placeOf(root, f); err != nil {
			return nil, err
		}
		return json.Marshal(id)
	})
	if err == nil {
		err = errors.Join(f.Rename(), f.Drop())
	}
	if err == nil {
		err = durable.SyncDir(filepath.Clean(root))
	}
	if err != nil {
		return "", fmt.Errorf("give store %s an identity: %w", root, err)
	}
	return id.ID, nil
}
