package durable

import (
	"errors"
	"fmt"
	"os"
)

// Staged is a file whose contents are durable but which does not have its final
// name yet: the slow part of Document.Write, for callers that must hold a lock
// while the file gets its name.
type Staged struct {
	f    *os.File // locked while it has its temporary name
	path string
}

// stageBy: see Document.StageBy.
func stageBy(path string, perm os.FileMode, content func(f *os.File) ([]byte, error)) (*Staged, error) {
	f, err := newTemporary(path)
	if err != nil {
		return nil, fmt.Errorf("write %s: %w", path, err)
	}
	s := &Staged{f, path}
	data, err := content(f)
	if err == nil {
		err = s.fill(data, perm)
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("write %s: %w", path, err), s.Drop())
	}
	return s, nil
}

func (s *Staged) fill(data []byte, perm os.FileMode) error {
	if _, err := s.f.Write(data); err != nil {
		return err
	}
	if err := s.f.Chmod(perm); err != nil {
		return err
	}
	return s.f.Sync()
}

// Rename gives the file its name, replacing an existing file; SyncDir must
// follow.
func (s *Staged) Rename() error { return s.named(Replace) }

// Publish is Rename that replaces nothing: os.ErrExist if the name is taken.
func (s *Staged) Publish() error { return s.named(Rename) }

func (s *Staged) named(rename func(from, to string) error) error {
	if err := rename(s.f.Name(), s.path); err != nil {
		return fmt.Errorf("write %s: %w", s.path, err)
	}
	err := s.f.Close() // its lock was needed until it had its name
	s.f = nil
	if err != nil {
		return fmt.Errorf("write %s: %w", s.path, err)
	}
	return nil
}

// Drop removes a file that got no name; for others and for nil it does nothing.
func (s *Staged) Drop() error {
	if s == nil || s.f == nil {
		return nil
	}
	f := s.f
	s.f = nil
	return errors.Join(IgnoreMissing(os.Remove(f.Name())), f.Close())
}
