package store

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
	"github.com/cocoonv2/cocoon/internal/base/keyring"
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

func (s *Store) writeFormat(version int) error {
	b, err := json.Marshal(formatFile{"cocoon-store", version})
	if err != nil {
		return err
	}
	return formatDocument.Write(s.Path("format"), b, 0o600)
}

// formatVersion reads the format file and refuses what is unknown.
func (s *Store) formatVersion() (int, error) {
	b, err := formatDocument.Read(s.Path("format"))
	if err != nil {
		return 0, fmt.Errorf("open store: %w", err)
	}
	if len(bytes.Trim(b, "\x00 \r\n\t")) == 0 && s.hasFolders() {
		return 0, s.lostFormat("is empty")
	}
	var f formatFile
	if err := json.Unmarshal(b, &f); err != nil && s.hasFolders() {
		return 0, failure.Hint(failure.New(failure.Incompatible, "%s is no cocoon store: what its file format says, this program never wrote", s.root),
			"if the file was damaged: remove it, and run cocoon system repair")
	}
	if f.Format != "cocoon-store" {
		return 0, failure.New(failure.Incompatible, "%s is no cocoon store", s.root)
	}
	if f.Version != Version && f.Version != EncryptedVersion {
		return 0, failure.New(failure.Incompatible, "store %s has version %d, this program knows %d and %d", s.root, f.Version, Version, EncryptedVersion)
	}
	return f.Version, nil
}

func (s *Store) lostFormat(how string) error {
	return failure.Hint(failure.New(failure.Damaged, "store %s: its file format %s, its folders are there", s.root, how), "cocoon system repair makes it again")
}

// hasFolders: most folders of a store are there, and nobody else's are called so.
func (s *Store) hasFolders() bool {
	have, all := 0, Folders()
	for _, f := range all {
		if fi, err := os.Lstat(s.Path(f)); err == nil && fi.IsDir() {
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
	s := &Store{root: root}
	if !s.hasFolders() || checkFolder(root, othersWrite) != nil {
		return nil, nil // Open says what is wrong
	}
	lock, err := filelock.ExclusiveFolder(ctx, root)
	if err != nil {
		return nil, err
	}
	defer lock.Unlock()
	_, err = s.begun()
	if err == nil {
		_, err = s.formatVersion()
	}
	var made []Remade
	switch {
	case errors.Is(err, failure.Damaged):
		if made, err = s.remakeFormat(ctx, dryRun); err != nil {
			return nil, err
		}
	case err != nil:
		return nil, nil // another's, or of another version
	}
	folders, err := s.remakeFolders(dryRun)
	return append(made, folders...), err
}

func (s *Store) remakeFormat(ctx context.Context, dryRun bool) ([]Remade, error) {
	version, err := s.versionOfBlobs(ctx)
	if err != nil || dryRun {
		return []Remade{{"format", fmt.Sprintf("would be made again: version %d by what is stored", version)}}, err
	}
	return []Remade{{"format", fmt.Sprintf("made again: version %d by what is stored", version)}}, s.writeFormat(version)
}

// versionOfBlobs: whatever is encrypted has a blob that begins so.
func (s *Store) versionOfBlobs(ctx context.Context) (int, error) {
	version := Version
	err := EachEntry(s.Path("blobs", "sha256"), func(name []byte, _ uint64) {
		if version == Version && ctx.Err() == nil && encryptedBlob(s.Path("blobs", "sha256", string(name))) {
			version = EncryptedVersion
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
