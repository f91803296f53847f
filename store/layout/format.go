package layout

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/cocoonv2/cocoon/internal/base/durable"
	"github.com/cocoonv2/cocoon/internal/base/failure"
	"github.com/cocoonv2/cocoon/internal/base/filelock"
	"github.com/cocoonv2/cocoon/internal/base/hint"
	"github.com/cocoonv2/cocoon/store/keyring"
	"github.com/cocoonv2/cocoon/store/pack"
)

// The file format says that a folder is a store, and of which version. It is the
// last that is made of a store and never removed; where all else is there and it
// is not, it was lost, and follows from the blobs.

var formatDocument = durable.Document{Name: "format", Limit: 4096}

type formatFile struct {
	Format  string `json:"format"`
	Version int    `json:"version"`
}

// SetVersion writes the format file.
func (l *Layout) SetVersion(version int) error {
	b, err := json.Marshal(formatFile{"cocoon-store", version})
	if err != nil {
		return err
	}
	return formatDocument.Write(l.Path("format"), b, 0o600)
}

// Version reads the format file and refuses what is unknown.
func (l *Layout) Version() (int, error) {
	b, err := formatDocument.Read(l.Path("format"))
	if err != nil {
		return 0, fmt.Errorf("open store: %w", err)
	}
	if len(bytes.Trim(b, "\x00 \r\n\t")) == 0 && l.hasFolders() {
		return 0, l.lostFormat("is empty")
	}
	var f formatFile
	err = json.Unmarshal(b, &f)
	if known := err == nil && f.Format == "cocoon-store"; !known && l.hasFolders() {
		return 0, failure.Hint(failure.New(failure.Incompatible, "%s is no cocoon store: its file %s says what this program never wrote", l.root, l.Path("format")),
			"if it is a store, and that file was damaged: remove "+l.Path("format")+" and nothing else, then "+hint.Repair.Of()+" makes it again")
	} else if !known {
		return 0, failure.New(failure.Incompatible, "%s is no cocoon store", l.root)
	}
	if f.Version != Plain && f.Version != Encrypted {
		return 0, failure.New(failure.Incompatible, "store %s has version %d, this program knows %d and %d", l.root, f.Version, Plain, Encrypted)
	}
	return f.Version, nil
}

func (l *Layout) lostFormat(how string) error {
	return failure.Hint(failure.New(failure.Damaged, "store %s: its file format %s, its folders are there", l.root, how), hint.Repair.Of()+" makes it again")
}

// hasFolders: most folders of a store are there, and nobody else's are called so.
func (l *Layout) hasFolders() bool {
	have, all := 0, Folders()
	for _, f := range all {
		if fi, err := os.Lstat(l.Path(f)); err == nil && fi.IsDir() {
			have++
		}
	}
	return have > len(all)/2
}

// Remade is what Remake did, or would do.
type Remade struct{ Object, How string }

// Remake makes again what a store cannot be opened without: its file format, and
// folders that are missing. It does nothing where there is no store.
func Remake(ctx context.Context, root string, dryRun bool) ([]Remade, error) {
	root, err := resolve(root)
	if err != nil {
		return nil, err
	}
	l := &Layout{root: root}
	if !l.hasFolders() || checkFolder(root, othersWrite) != nil {
		return nil, nil // Open says what is wrong
	}
	lock, err := filelock.ExclusiveFolder(ctx, root)
	if err != nil {
		return nil, err
	}
	defer lock.Unlock()
	_, err = l.begun()
	if err == nil {
		_, err = l.Version()
	}
	var made []Remade
	switch {
	case errors.Is(err, failure.Damaged):
		if made, err = l.remakeFormat(ctx, dryRun); err != nil {
			return nil, err
		}
	case err != nil:
		return nil, nil // another's, or of another version
	}
	folders, err := l.remakeFolders(dryRun)
	return append(made, folders...), err
}

func (l *Layout) remakeFormat(ctx context.Context, dryRun bool) ([]Remade, error) {
	version, err := l.versionOfBlobs(ctx)
	if err != nil || dryRun {
		return []Remade{{"format", fmt.Sprintf("would be made again: version %d by what is stored", version)}}, err
	}
	return []Remade{{"format", fmt.Sprintf("made again: version %d by what is stored", version)}}, l.SetVersion(version)
}

// versionOfBlobs: whatever is encrypted has a blob that begins so.
func (l *Layout) versionOfBlobs(ctx context.Context) (int, error) {
	version := Plain
	err := EachEntry(l.Path("blobs", "sha256"), func(name []byte, _ uint64) {
		if version == Plain && ctx.Err() == nil && encryptedBlob(l.Path("blobs", "sha256", string(name))) {
			version = Encrypted
		}
	})
	if errors.Is(err, os.ErrNotExist) {
		err = nil
	}
	return version, errors.Join(err, ctx.Err())
}

func encryptedBlob(path string) bool {
	f, err := os.Open(filepath.Clean(path))
	if err != nil {
		return false
	}
	defer f.Close()
	var head [64]byte
	n, err := io.ReadFull(f, head[:])
	return (err == nil || errors.Is(err, io.ErrUnexpectedEOF)) && (keyring.IsSealed(head[:n]) || pack.IsSealed(head[:n]))
}

// Around is the store of which a path is one of the folders, or lies in one; ""
// for none. The path is taken as it is, without following links.
func Around(path string) string {
	for at := filepath.Clean(path); at != filepath.Dir(at); at = filepath.Dir(at) {
		root := filepath.Dir(at)
		if !slices.ContainsFunc(Folders(), func(f string) bool { return f == filepath.Base(at) || strings.HasPrefix(f, filepath.Base(at)+"/") }) {
			continue
		}
		if _, err := os.Lstat(filepath.Join(root, formatDocument.Name)); err == nil {
			return root
		}
	}
	return ""
}
