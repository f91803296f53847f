package trash

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

// The name of a trace is removed-<kind>-<id>.<random>.
const tracePrefix = "removed-"

// Trace of a root that one of our verbs removed.
type Trace struct {
	Kind, ID string
	Entry    string // in the trash
}

// Remove takes a root out of its folder, with a trace. The caller fsyncs both
// parents, and may then Clear what it removed.
func (t *Trash) Remove(kind, id, path string) (trashed string, err error) {
	trashed = t.path(tracePrefix + kind + "-" + id + "." + random())
	if err := durable.Replace(path, trashed); err != nil {
		return "", fmt.Errorf("remove %s %s: %w", kind, id, err)
	}
	return trashed, nil
}

func random() string {
	var b [8]byte
	rand.Read(b[:]) // never fails: crypto/rand aborts the process instead
	return hex.EncodeToString(b[:])
}

// Clear unlinks what was removed; its trace stays.
func Clear(trashed string) error {
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
func (t *Trash) Traces() ([]Trace, error) {
	entries, err := os.ReadDir(t.at.Path("trash"))
	if err != nil {
		return nil, fmt.Errorf("list the trash: %w", err)
	}
	var all []Trace
	for _, e := range entries {
		if trace, ok := TraceOf(e.Name()); ok {
			all = append(all, trace)
		}
	}
	return all, nil
}

// TraceOf is the trace that an entry of the trash is; what a collector discarded is
// none.
func TraceOf(entry string) (Trace, bool) {
	rest, ok := strings.CutPrefix(entry, tracePrefix)
	kind, rest, ok2 := strings.Cut(rest, "-")
	end := strings.LastIndexByte(rest, '.')
	if !ok || !ok2 || end < 0 {
		return Trace{}, false
	}
	return Trace{kind, rest[:end], entry}, true
}

// IsTrace tells an entry of the trash that is nothing but a trace.
func (t *Trash) IsTrace(entry string) bool {
	if _, ok := TraceOf(entry); !ok {
		return false
	}
	entries, err := os.ReadDir(t.path(entry))
	return err != nil || len(entries) == 0
}
