package store

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"github.com/opencontainers/go-digest"

	"github.com/cocoonv2/cocoon/internal/base/failure"
	"github.com/cocoonv2/cocoon/internal/base/spelling"
	"github.com/cocoonv2/cocoon/refs"
	"github.com/cocoonv2/cocoon/store/layout"
)

const fuzzID = "0123456789abcdef0123456789abcdef"

// FuzzIndexRow: any bytes are a row or none, and what is a row is written again as
// the same.
func FuzzIndexRow(f *testing.F) {
	at := time.Date(2026, 1, 2, 3, 4, 5, 6, time.FixedZone("", 3600))
	full := cached{
		Summary: Summary{
			ID: fuzzID, Name: "web-1", VM: VMRef{ID: "vm-id", Name: "vm"}, Created: at.UTC(), Description: "früh, {\"quoted\"}", Labels: map[string]string{"a": "b", "c d": ""},
			Expires: &at, Protected: true, State: "ready", Hypervisor: Hypervisor{Name: "ch", Version: "53.0.0"}, CPUs: 2, Memory: MemorySummary{1 << 40, 3},
			Disks: []DiskSummary{{"s", 7}, {"", 0}}, Size: Size{4, 5, 6}, Parent: fuzzID, Capture: CaptureSummary{"live", 1.5, UnknownMs, 1, 2, 3}, Key: "0123",
		},
		stamp: metaStamp{7, -8}, families: []digest.Digest{digest.FromString("x")}, blobs: blobShares("").with(Descriptor{Digest: digest.FromString("a"), Size: 5}).with(Descriptor{Digest: digest.FromString("b")}), whole: true,
	}
	for _, c := range []cached{full, {Summary: Summary{ID: fuzzID, Created: time.Time{}}}} {
		row, err := c.encode()
		if err != nil {
			f.Fatal(err)
		}
		f.Add(row)
	}
	row, err := full.encode()
	var got cached
	if err := errors.Join(err, got.decode(row)); err != nil {
		f.Fatal(err)
	}
	got.row = ""
	same := []cmp.Option{cmp.AllowUnexported(cached{}, metaStamp{}), cmpopts.IgnoreUnexported(Summary{}), cmpopts.EquateEmpty(), cmpopts.IgnoreFields(cached{}, "row")}
	if d := cmp.Diff(full, got, same...); d != "" {
		f.Fatalf("it reads back as another (-want +got):\n%s", d)
	}
	f.Fuzz(func(t *testing.T, row string) {
		var c, again cached
		if c.decode(row) != nil {
			return
		}
		written, err := c.encode()
		if err != nil {
			return // it is left out of the index then
		}
		if err := again.decode(written); err != nil {
			t.Fatalf("%q cannot be read back: %v", written, err)
		}
		if d := cmp.Diff(c, again, same...); d != "" {
			t.Errorf("it reads back as another (-want +got):\n%s", d)
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

// FuzzFamilies: whatever the index says, who joins a family behind it is found, and
// nobody that cannot be.
func FuzzFamilies(f *testing.F) {
	s := openTest(f)
	image := ImageRef{Digest: digest.FromString("x"), Role: "disk"}
	sn := &Snapshot{ID: fuzzID, Spec: Spec{Images: []ImageRef{image}}}
	line := func(id ID) string { return string(familyLines(nil, familyKeys(sn.Spec.Images), id)) }
	f.Add(line("fedcba9876543210fedcba9876543210"))
	f.Add(line("../../../etc"))
	f.Add(line(fuzzID)[:50])
	f.Fuzz(func(t *testing.T, note string) {
		if err := refs.Write(s.indexPath(), s.identity(), nil, []byte(note)); err != nil {
			t.Fatal(err)
		}
		s.joinFamily(sn)
		members := s.family(t.Context(), sn.Spec.Images)
		if !slices.Contains(members, fuzzID) {
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
		if err == nil && v != layout.Plain && v != layout.Encrypted {
			t.Errorf("version %d of %q", v, b)
		}
		lost := len(bytes.Trim(b, "\x00 \r\n\t")) == 0
		if len(b) <= 4096 && err != nil && errors.Is(err, failure.Incompatible) == lost {
			t.Errorf("%v: another program's folder is taken for a broken store", err)
		}
	})
}
