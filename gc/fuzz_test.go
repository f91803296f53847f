package gc

import (
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"testing"

	"github.com/opencontainers/go-digest"

	"github.com/cocoonv2/cocoon/gc/garbage"
	"github.com/cocoonv2/cocoon/internal/base/failure"
	"github.com/cocoonv2/cocoon/internal/engine/image"
	"github.com/cocoonv2/cocoon/internal/engine/vm"
)

// FuzzRecords: what the owner of a record takes for a blob that it stands on, gc
// holds, or it sweeps nothing.
func FuzzRecords(f *testing.F) {
	d := digest.FromString("x")
	seed := func(kind byte, v any) {
		b, err := json.Marshal(v)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(kind, b)
	}
	seed(0, vm.Record{Version: 1, ID: "0123456789abcdef0123456789abcdef", Name: "web", Images: []digest.Digest{d}, Disks: []vm.Disk{{Image: digest.FromString("y")}}})
	seed(1, image.Record{ID: d, Name: "disk"})
	f.Add(byte(2), []byte(`{"digests":["`+string(d)+`"]}`))
	st := open(f, filepath.Join(f.TempDir(), "root"))
	if err := os.Mkdir(st.Path("vms", "0123456789abcdef0123456789abcdef"), 0o700); err != nil {
		f.Fatal(err)
	}
	kinds := []struct{ name, path string }{
		{"vm", st.Path("vms", "0123456789abcdef0123456789abcdef", "record.json")},
		{"image", st.Path("images", "disk.json")},
		{"pin", st.Path("pins", "p.json")},
	}
	f.Fuzz(func(t *testing.T, kind byte, b []byte) {
		k := kinds[int(kind)%len(kinds)]
		if err := os.WriteFile(k.path, b, 0o600); err != nil {
			t.Fatal(err)
		}
		r := newRoots(st, sources(st), newMarks(true), nil)
		defer r.watch.close()
		if err := r.readRecord(sources(st)[int(kind)%len(kinds)], k.path); err != nil {
			if !errors.Is(err, failure.Damaged) {
				t.Fatal(err)
			}
			return
		}
		var named []digest.Digest
		var ofVM vm.Record
		var ofImage image.Record
		switch {
		case k.name == "vm" && json.Unmarshal(b, &ofVM) == nil:
			named = ofVM.Images
			for _, d := range ofVM.Disks {
				named = append(named, d.Image)
			}
		case k.name == "image" && json.Unmarshal(b, &ofImage) == nil:
			named = []digest.Digest{ofImage.ID}
		}
		for _, d := range named {
			if o, ok := garbage.DigestKey(d); d != "" && (!ok || !r.marks.held(o)) {
				t.Errorf("%q of a %s is not held: %s", d, k.name, b)
			}
		}
	})
}
