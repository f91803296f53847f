package store

import (
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/cocoonv2/cocoon/internal/base/durable"
)

// A verb that removes a root renames it to trash/removed-<kind>-<id>.<random>, and
// then empties it there. The name stays until a collector has taken note of it: so
// the removal and its trace are one step, and what is gone without a trace was lost.

const tracePrefix = "removed-"

// Trace of a root that one of our verbs removed.
type Trace struct {
	Kind, ID string
	Entry    string // in the trash
}

// RemoveRoot takes a root out of its folder, with a trace. The caller fsyncs both
// parents, and may call EmptyTrace.
func (s *Store) RemoveRoot(kind, id, path string) (trashed string, err error) {
	var tail [8]byte
	rand.Read(tail[:]) // never fails: crypto/rand aborts the process instead
	trashed = s.Path("trash", tracePrefix+kind+"-"+id+"."+hex.EncodeToString(tail[:]))
	if err := durable.Replace(path, trashed); err != nil {
		return "", fmt.Errorf("remove %s %s: %w", kind, id, err)
	}
	return trashed, nil
}

// EmptyTrace unlinks what was removed; its trace stays.
func (s *Store) EmptyTrace(trashed string) error {
	fi, err := os.Lstat(trashed)
	if errors.Is(err, os.ErrNotExist) || err == nil && !fi.IsDir() {
		return nil // taken note of meanwhile; or a record, of a few bytes
	}
	entries, err := os.ReadDir(trashed)
	for _, e := range entries {
		err = errors.Join(err, os.RemoveAll(filepath.Join(trashed, e.Name())))
	}
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	return err
}

// Traces lists what was removed since a collector took note.
func (s *Store) Traces() ([]Trace, error) {
	entries, err := os.ReadDir(s.Path("trash"))
	if err != nil {
		return nil, fmt.Errorf("list the trash: %w", err)
	}
	var all []Trace
	for _, e := range entries {
		if t, ok := parseTrace(e.Name()); ok {
			all = append(all, t)
		}
	}
	return all, nil
}

func parseTrace(entry string) (Trace, bool) {
	rest, ok := strings.CutPrefix(entry, tracePrefix)
	kind, rest, ok2 := strings.Cut(rest, "-")
	end := strings.LastIndexByte(rest, '.')
	if !ok || !ok2 || end < 0 {
		return Trace{}, false
	}
	return Trace{kind, rest[:end], entry}, true
}

// IsTrace tells an entry of the trash that is nothing but a trace.
func (s *Store) IsTrace(entry string) bool {
	if _, ok := parseTrace(entry); !ok {
		return false
	}
	entries, err := os.ReadDir(s.Path("trash", entry))
	return err != nil || len(entries) == 0
}

// RemoveTraces comes when they were taken note of.
func (s *Store) RemoveTraces(noted []Trace) error {
	var errs []error
	for _, t := range noted {
		errs = append(errs, os.RemoveAll(s.Path("trash", t.Entry)))
	}
	return errors.Join(errs...)
}
