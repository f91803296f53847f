package storetest

import (
	"bytes"
	"io"
	"os"
	"path/filepath"
	"testing"

	"github.com/cocoonv2/cocoon/internal/base/failure"
	"github.com/cocoonv2/cocoon/store"
	"github.com/cocoonv2/cocoon/store/contents"
	"github.com/cocoonv2/cocoon/store/pack"
)

// emptyMemory: RAM of zero bytes, and RAM that is all zeros, need no pack.
func emptyMemory(t *testing.T, h Harness) {
	s := h.open(t)
	none := MustPublish(t, s, "none", nil)
	zeros := MustPublish(t, s, "zeros", make([]byte, 1<<20))
	ReadsBack(t, s, zeros.ID, make([]byte, 1<<20))
	for _, sn := range []*store.Snapshot{none, zeros} {
		for _, l := range sn.Manifest.Layers {
			if l.MediaType == store.MediaTypePack {
				t.Errorf("snapshot %s has a pack of %d bytes", sn.Meta.Name, l.Size)
			}
		}
	}
	intact(t, s, 2)
}

// sparseMemory: holes of a file are neither read nor stored, and are zeros when
// read back.
func sparseMemory(t *testing.T, h Harness) {
	s := h.open(t)
	f, err := os.Create(filepath.Join(t.TempDir(), "ram"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	const size = 1 << 30
	island := Image(1, 7)
	for _, off := range []int64{0, 333 << 20, size - int64(len(island))} {
		if _, err := f.WriteAt(island, off); err != nil {
			t.Fatal(err)
		}
	}
	l := Lease(t, s)
	in := begin(t, s, l)
	m, err := writeMemory(t.Context(), in, size, f)
	if err != nil {
		t.Fatal(err)
	}
	sp, err := spec(t.Context(), in, m)
	if err != nil {
		t.Fatal(err)
	}
	sn, err := in.Commit(t.Context(), sp, store.Meta{})
	if err != nil {
		t.Fatal(err)
	}
	if sn.StoredBytes > 1<<20 {
		t.Errorf("%d bytes are stored for three islands of %d", sn.StoredBytes, len(island))
	}
	im, err := contents.Of(s, sn).Memory(t.Context(), 0)
	if err != nil {
		t.Fatal(err)
	}
	defer im.Close()
	got := make([]byte, len(island))
	for off, want := range map[int64][]byte{
		0: island, 333 << 20: island, size - int64(len(island)): island, 500 << 20: make([]byte, len(island)),
	} {
		if _, err := im.ReadAt(got, off); err != nil || !bytes.Equal(got, want) {
			t.Errorf("RAM at %d differs (%v)", off, err)
		}
	}
}

// hugeOffset: the last page of the largest image is kept; one byte more is
// refused.
func hugeOffset(t *testing.T, h Harness) {
	s := h.open(t)
	l := Lease(t, s)
	in := begin(t, s, l)
	w := in.Pages(t.Context())
	iw := w.Image(pack.MaxImageBytes, nil)
	page := Image(1, 1)
	if _, err := iw.WriteAt(page, pack.MaxImageBytes-pack.PageSize); err != nil {
		t.Fatal(err)
	}
	if _, err := w.Flush(t.Context()); err != nil {
		t.Fatal(err)
	}
	m, err := iw.Finish()
	if err != nil {
		t.Fatal(err)
	}
	d, err := in.PutMap(t.Context(), m)
	if err != nil {
		t.Fatal(err)
	}
	sp, err := spec(t.Context(), in, store.MemoryRange{Bytes: pack.MaxImageBytes, Map: d.Digest})
	if err != nil {
		t.Fatal(err)
	}
	sn, err := in.Commit(t.Context(), sp, store.Meta{})
	if err != nil {
		t.Fatal(err)
	}
	im, err := contents.Of(s, sn).Memory(t.Context(), 0)
	if err != nil {
		t.Fatal(err)
	}
	defer im.Close()
	got := make([]byte, pack.PageSize)
	if _, err := im.ReadAt(got, pack.MaxImageBytes-pack.PageSize); err != nil || !bytes.Equal(got, page) {
		t.Errorf("the last page differs (%v)", err)
	}
	if n, err := im.ReadAt(got, pack.MaxImageBytes); n != 0 || err != io.EOF {
		t.Errorf("behind the end: %d bytes, %v", n, err)
	}
	if _, err := im.ReadAt(got, -1); err == nil {
		t.Error("a negative offset was read")
	}
	other := Lease(t, s)
	in = begin(t, s, other)
	tooLarge := in.Pages(t.Context())
	tooLarge.Image(pack.MaxImageBytes+1, nil)
	_, err = tooLarge.Flush(t.Context())
	wants(t, "an image that is too large", err, failure.Incompatible)
}
