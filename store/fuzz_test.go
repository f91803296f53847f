package store

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/cocoonv2/cocoon/internal/base/failure"
	"github.com/cocoonv2/cocoon/store/layout"
)

const fuzzID = "0123456789abcdef0123456789abcdef"

// FuzzMeta: what an operator may change of a snapshot survives being written by
// the next change.
func FuzzMeta(f *testing.F) {
	f.Add([]byte(`{"name":"web","description":"d","labels":{"a":"b"},"expires":"2026-01-02T03:04:05+01:00","protected":true,"quarantine":{"reason":"r"}}`))
	f.Add([]byte(`{"labels":null}`))
	dir := f.TempDir()
	path := filepath.Join(dir, "meta.json")
	f.Fuzz(func(t *testing.T, b []byte) {
		if err := os.WriteFile(path, b, 0o600); err != nil {
			t.Fatal(err)
		}
		m, err := readMeta(dir)
		if err != nil {
			if !errors.Is(err, failure.Damaged) {
				t.Fatal(err)
			}
			return
		}
		text, err := m.Encode()
		if err != nil {
			t.Fatalf("%+v cannot be changed any more: %v", m, err)
		}
		if err := os.WriteFile(path, text, 0o600); err != nil {
			t.Fatal(err)
		}
		again, err := readMeta(dir)
		if err != nil {
			t.Fatalf("%s cannot be read back: %v", text, err)
		}
		if m.Labels == nil {
			m.Labels = map[string]string{}
		}
		if d := cmp.Diff(m, again); d != "" {
			t.Errorf("%s reads back as another (-want +got):\n%s", strings.TrimSpace(string(text)), d)
		}
	})
}

// FuzzFormat: a folder is a store of a version that is known, or no store.
func FuzzFormat(f *testing.F) {
	s := openTest(f)
	f.Add([]byte(`{"format":"cocoon-store","version":1}`))
	f.Add([]byte(`{"format":"cocoon-store","version":2}`))
	f.Add([]byte(`{"format":"cocoon-store","version":1e0}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		if err := os.WriteFile(s.Path("format"), b, 0o600); err != nil {
			t.Fatal(err)
		}
		v, err := s.at.Version()
		if err == nil && v != layout.Plain && v != layout.Encrypted {
			t.Errorf("version %d of %q", v, b)
		}
		lost := len(bytes.Trim(b, "\x00 \r\n\t")) == 0
		if len(b) <= 4096 && err != nil && errors.Is(err, failure.Incompatible) == lost {
			t.Errorf("%v: another program's folder is taken for a broken store", err)
		}
	})
}
