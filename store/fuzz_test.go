package store

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	jsonv2 "github.com/go-json-experiment/json"
	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"github.com/opencontainers/go-digest"

	"github.com/cocoonv2/cocoon/internal/base/failure"
	"github.com/cocoonv2/cocoon/internal/base/spelling"
	storelayout "github.com/cocoonv2/cocoon/store/layout"
)

const fuzzID = "0123456789abcdef0123456789abcdef"

// FuzzSummaryLine: a line is a summary of the snapshot that it begins with, and
// is written again as the same.
func FuzzSummaryLine(f *testing.F) {
	at := time.Date(2026, 1, 2, 3, 4, 5, 6, time.UTC)
	c := cached{Summary: Summary{ID: fuzzID, Name: "web", Created: at, Expires: &at, Labels: map[string]string{"a b": "c"}}, Blobs: []blobShare{{"00", 5}}, stamp: metaStamp{7, -8}}
	line, err := c.line()
	if err != nil {
		f.Fatal(err)
	}
	f.Add(line)
	f.Add([]byte(fuzzID + " 1 2 null {}\n"))
	f.Fuzz(func(t *testing.T, row []byte) {
		l, ok := parseLine(string(row))
		if !ok {
			return
		}
		var c cached
		if l.parse(&c, true) != nil {
			return
		}
		if c.Summary.ID != l.id || !spelling.ID(string(l.id)) {
			t.Fatalf("the line of %s is a summary of %q", l.id, c.Summary.ID)
		}
		var any Summary // read without knowing the layout
		if err := jsonv2.Unmarshal([]byte(l.body), &any); err != nil {
			t.Fatalf("%q is no JSON: %v", l.body, err)
		}
		if d := cmp.Diff(any, c.Summary, cmpopts.IgnoreUnexported(Summary{})); d != "" {
			t.Errorf("%q is read as another than it is (-want +got):\n%s", l.body, d)
		}
		line, err := c.line()
		if err != nil {
			return // it is left out of the file then
		}
		var again cached
		l, ok = parseLine(string(line))
		if err := l.parse(&again, true); !ok || err != nil {
			t.Fatalf("%q cannot be read back: %v", line, err)
		}
		if d := cmp.Diff(c, again, cmp.AllowUnexported(cached{}, metaStamp{}), cmpopts.IgnoreUnexported(Summary{})); d != "" {
			t.Errorf("%q reads back as another (-want +got):\n%s", line, d)
		}
	})
}

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
		text, err := m.encode()
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

// FuzzFamilies: whatever stands in the file of families, who joins one behind it
// is its first member.
func FuzzFamilies(f *testing.F) {
	s := openTest(f)
	image := ImageRef{Digest: digest.FromString("x"), Role: "disk"}
	sn := &Snapshot{ID: fuzzID, Spec: Spec{Images: []ImageRef{image}}}
	f.Add([]byte(string(image.Digest) + " fedcba9876543210fedcba9876543210\ntorn"))
	f.Add(bytes.Repeat([]byte("long"), 1<<15))
	f.Fuzz(func(t *testing.T, b []byte) {
		if err := os.WriteFile(s.familiesPath(), append(b, '\n'), 0o600); err != nil {
			t.Fatal(err)
		}
		s.joinFamily(sn)
		members := s.family(t.Context(), sn.Spec.Images)
		if len(members) == 0 || members[0] != fuzzID {
			t.Errorf("members %v", members)
		}
		for _, id := range members {
			if !spelling.ID(string(id)) {
				t.Errorf("%q is a member", id)
			}
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
		if err == nil && v != storelayout.Plain && v != storelayout.Encrypted {
			t.Errorf("version %d of %q", v, b)
		}
		lost := len(bytes.Trim(b, "\x00 \r\n\t")) == 0
		if len(b) <= 4096 && err != nil && errors.Is(err, failure.Incompatible) == lost {
			t.Errorf("%v: another program's folder is taken for a broken store", err)
		}
	})
}
