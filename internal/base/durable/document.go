package durable

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"

	"github.com/cocoonv2/cocoon/internal/base/failure"
)

// Document is a kind of small file that is written and read whole, and only
// through this type: so one size limit holds for both, and nothing is ever
// written that cannot be read back.
type Document struct {
	Name  string // its name in errors
	Limit int64  // bytes
}

// Check refuses contents that are too long, before anything is changed.
func (d Document) Check(data []byte) error {
	if int64(len(data)) > d.Limit {
		return failure.New(failure.Usage, "%s would have %d bytes, at most %d can be read back", d.Name, len(data), d.Limit)
	}
	return nil
}

// Write replaces path by a file that holds data, atomically and durably. A crash
// leaves either the old or the new contents, and at worst a file beside it that
// Stray recognises.
func (d Document) Write(path string, data []byte, perm os.FileMode) error {
	if err := d.Check(data); err != nil {
		return err
	}
	return writeFile(path, data, perm)
}

// WriteLoose is Write without an fsync, for what can be made again and says itself
// whether it is whole: a power cut may leave anything.
func (d Document) WriteLoose(path string, data []byte, perm os.FileMode) error {
	if err := d.Check(data); err != nil {
		return err
	}
	f, err := newTemporary(path)
	if err != nil {
		return fmt.Errorf("write %s: %w", path, err)
	}
	s := &Staged{f, path}
	_, err = f.Write(data)
	if err == nil {
		err = f.Chmod(perm)
	}
	if err == nil {
		err = s.Rename()
	}
	return errors.Join(err, s.Drop())
}

// Stage writes data beside path. Drop it, also after Rename.
func (d Document) Stage(path string, data []byte, perm os.FileMode) (*Staged, error) {
	return d.StageBy(path, perm, func(*os.File) ([]byte, error) { return data, nil })
}

// StageBy is Stage for contents that depend on the file itself.
func (d Document) StageBy(path string, perm os.FileMode, content func(f *os.File) ([]byte, error)) (*Staged, error) {
	return stageBy(path, perm, func(f *os.File) ([]byte, error) {
		data, err := content(f)
		if err == nil {
			err = d.Check(data)
		}
		return data, err
	})
}

// Read reads a regular file from one open descriptor: it reads exactly what it
// measured. A link, a special file or a larger one is failure.Damaged; a missing
// one keeps os.ErrNotExist.
func (d Document) Read(path string) ([]byte, error) { return readSmall(path, d.Limit) }

// ReadIn is Read of a file in an untrusted folder.
func (d Document) ReadIn(folder *os.Root, name string) ([]byte, error) {
	f, err := OpenRegular(folder, name)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return readAll(f, d.Limit)
}

// WriteIn is Write in such a folder.
func (d Document) WriteIn(folder *os.Root, name string, data []byte, perm os.FileMode) error {
	if err := d.Check(data); err != nil {
		return err
	}
	return writeFileIn(folder, name, data, perm)
}

// DecodeAll reads JSON strictly: an unknown field, or anything after the value,
// is an error. Code that decides from a file what is no longer needed uses it,
// since a newer program may keep something needed in a new field.
func DecodeAll(data []byte, v any) error {
	dec := json.NewDecoder(bytes.NewReader(data))
	dec.DisallowUnknownFields()
	if err := dec.Decode(v); err != nil {
		return err
	}
	if _, err := dec.Token(); !errors.Is(err, io.EOF) {
		return fmt.Errorf("something follows the end")
	}
	return nil
}
