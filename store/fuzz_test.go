package store

import (
	"bytes"
	"errors"
	"fmt"
	"hash/crc32"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	jsonv2 "github.com/go-json-experiment/json"
	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"github.com/opencontainers/go-digest"

	"github.com/cocoonv2/cocoon/internal/failure"
	"github.com/cocoonv2/cocoon/internal/spelling"
)

const fuzzID = "0123456789abcdef0123456789abcdef"

// FuzzClaims: the file of names is believed whole or not at all, and what is
// believed of it is written again as the same claims.
func FuzzClaims(f *testing.F) {
	f.Add([]byte(fuzzID+" \"web\"\n"+fuzzID+" \"\"\n"), "web")
	f.Add([]byte(fuzzID+" \"a\\u00e9\\\"b\"\ntorn"), "aé\"b")
	f.Add([]byte(fuzzID+" 'x'\n"), "x")
	f.Fuzz(func(t *testing.T, b []byte, name string) {
		if c := decodeClaims(b, name); c != nil {
			checkClaims(t, c, name)
		}
		var summed []byte // so that lines are read beyond their checksums
		for line := range bytes.Lines(b) {
			body := bytes.TrimSuffix(line, []byte("\n"))
			summed = fmt.Appendf(summed, "%08x %s", crc32.ChecksumIEEE(body), line)
		}
		c := decodeClaims(summed, name)
		if c == nil {
			return
		}
		checkClaims(t, c, name)
		if c.torn != (len(summed) > 0 && summed[len(summed)-1] != '\n') || c.count() != bytes.Count(summed, []byte("\n")) {
			t.Errorf("%d claims, torn %v, of %q", c.count(), c.torn, summed)
		}
	})
}

func checkClaims(t *testing.T, c *claims, name string) {
	t.Helper()
	for _, id := range c.of {
		if key, _ := keyOf(id); !spelling.ID(id) || len(c.unclaimed([]idKey{key})) > 0 {
			t.Errorf("%q claims %q", id, name)
		}
	}
	all := slices.Collect(maps.Keys(c.known()))
	b := c.linesOf(all)
	again := decodeClaims(b, name)
	if again == nil || again.torn || again.count() != c.count() || !slices.Equal(again.of, c.of) || !maps.Equal(again.known(), c.known()) {
		t.Errorf("written again as %q they are other claims", b)
	}
	if left := c.linesOf(nil); len(left) > 0 {
		t.Errorf("%q is kept for nobody", left)
	}
}

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
		v, err := s.formatVersion()
		if err == nil && v != Version && v != EncryptedVersion {
			t.Errorf("version %d of %q", v, b)
		}
		lost := len(bytes.Trim(b, "\x00 \r\n\t")) == 0
		if len(b) <= 4096 && err != nil && errors.Is(err, failure.Incompatible) == lost {
			t.Errorf("%v: another program's folder is taken for a broken store", err)
		}
	})
}
