package index

import (
	"encoding/json"
	"errors"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"github.com/opencontainers/go-digest"

	"github.com/cocoonv2/cocoon/internal/base/spelling"
	"github.com/cocoonv2/cocoon/refs"
	"github.com/cocoonv2/cocoon/store/document"
	"github.com/cocoonv2/cocoon/store/layout"
)

const fuzzID = "0123456789abcdef0123456789abcdef"

// FuzzIndexRow: any bytes are a row or none, and what is a row is written again as
// the same.
func FuzzIndexRow(f *testing.F) {
	at := time.Date(2026, 1, 2, 3, 4, 5, 6, time.FixedZone("", 3600))
	full := cached{
		Summary: Summary{
			ID: fuzzID, Name: "web-1", VM: document.VMRef{ID: "vm-id", Name: "vm"}, Created: at.UTC(), Description: "früh, {\"quoted\"}", Labels: map[string]string{"a": "b", "c d": ""},
			Expires: &at, Protected: true, State: "ready", Hypervisor: document.Hypervisor{Name: "ch", Version: "53.0.0"}, CPUs: 2, Memory: MemorySummary{1 << 40, 3},
			Disks: []DiskSummary{{"s", 7}, {"", 0}}, Size: Size{4, 5, 6}, Parent: fuzzID, Capture: CaptureSummary{"live", 1.5, UnknownMs, 1, 2, 3}, Key: "0123",
		},
		stamp: stamp{fileStamp{7, -8}, fileStamp{9, 10}}, families: []digest.Digest{digest.FromString("x")}, blobs: blobShares("").with(document.Descriptor{Digest: digest.FromString("a"), Size: 5}).with(document.Descriptor{Digest: digest.FromString("b")}), whole: true,
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
	same := []cmp.Option{cmp.AllowUnexported(cached{}, stamp{}, fileStamp{}), cmpopts.IgnoreUnexported(Summary{}), cmpopts.EquateEmpty(), cmpopts.IgnoreFields(cached{}, "row")}
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

// FuzzFamilies: whatever the index says, who joins a family behind it is found, and
// nobody that cannot be.
func FuzzFamilies(f *testing.F) {
	at, err := layout.Open(f.Context(), filepath.Join(f.TempDir(), "root"), true)
	if err != nil {
		f.Fatal(err)
	}
	x := Of(at, nil, nil)
	image := document.ImageRef{Digest: digest.FromString("x"), Role: "disk"}
	sn := &document.Snapshot{ID: fuzzID, Spec: document.Spec{Images: []document.ImageRef{image}}}
	line := func(id layout.ID) string { return string(familyLines(nil, familyKeys(sn.Spec.Images), id)) }
	f.Add(line("fedcba9876543210fedcba9876543210"))
	f.Add(line("../../../etc"))
	f.Add(line(fuzzID)[:50])
	f.Fuzz(func(t *testing.T, note string) {
		if err := refs.Write(x.path(), x.identity(), nil, []byte(note)); err != nil {
			t.Fatal(err)
		}
		x.Published(sn)
		members := x.Family(t.Context(), sn.Spec.Images)
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

// TestATimeThatCannotBeIsNull: imports of former programs counted from no time at
// all, and what a foreign snapshot says may be anything.
func TestATimeThatCannotBeIsNull(t *testing.T) {
	for ms, want := range map[float64]string{9223372036854.775: "null", -1: "null", 1e300: "null", 0: "0", 12.5: "12.5"} {
		text, err := json.Marshal(summarised(document.Capture{TotalMs: ms}).TotalMs)
		if err != nil || string(text) != want {
			t.Errorf("%v ms: %s, %v, want %s", ms, text, err, want)
		}
		var back Ms
		if err := json.Unmarshal(text, &back); err != nil || back != knownMs(ms) {
			t.Errorf("%s: %v, %v", text, back, err)
		}
	}
}
