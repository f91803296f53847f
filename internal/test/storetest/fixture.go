package storetest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"testing"

	"github.com/opencontainers/go-digest"

	"github.com/cocoonv2/cocoon/store"
	"github.com/cocoonv2/cocoon/store/contents"
	"github.com/cocoonv2/cocoon/store/pack"
)

// Image is RAM of pages with distinct contents; every third page is zero.
func Image(seed, pages int) []byte {
	b := make([]byte, pages*pack.PageSize)
	for p := range pages {
		if p%3 != 2 {
			copy(b[p*pack.PageSize:], fmt.Sprintf("page %d of %d", p, seed))
		}
	}
	return b
}

func Lease(t testing.TB, s *store.Store) *store.Lease {
	t.Helper()
	l, err := s.Lease(t.Context(), t.Name())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = l.Release() })
	return l
}

func begin(t testing.TB, s *store.Store, l *store.Lease) *store.Ingest {
	t.Helper()
	in, err := s.Ingest(t.Context(), l)
	if err != nil {
		t.Fatal(err)
	}
	return in
}

// writeMemory packs RAM and gives the range that a Spec needs.
func writeMemory(ctx context.Context, in *store.Ingest, size uint64, ram io.ReaderAt) (store.MemoryRange, error) {
	w := in.Pages(ctx)
	iw := w.Image(size, nil)
	if err := iw.ReadFrom(ctx, ram, nil); err != nil {
		return store.MemoryRange{}, err
	}
	if _, err := w.Flush(ctx); err != nil {
		return store.MemoryRange{}, err
	}
	m, err := iw.Finish()
	if err != nil {
		return store.MemoryRange{}, err
	}
	d, err := in.PutMap(ctx, m)
	return store.MemoryRange{Bytes: size, Map: d.Digest}, err
}

// spec stores the two documents that every snapshot has.
func spec(ctx context.Context, in *store.Ingest, memory ...store.MemoryRange) (store.Spec, error) {
	config, err := in.Put(ctx, store.MediaTypeCHConfig, []byte("{}"))
	if err != nil {
		return store.Spec{}, err
	}
	state, err := in.Put(ctx, store.MediaTypeCHState, []byte(`{"state":1}`))
	return store.Spec{
		Record: []byte("{}"), CHConfig: config.Digest, CHState: state.Digest,
		VM: store.VMRef{ID: "vm", Name: "web"}, Memory: memory,
	}, err
}

// Publish makes a snapshot of the given RAM under a lease.
func Publish(ctx context.Context, s *store.Store, l *store.Lease, meta store.Meta, ram []byte) (*store.Snapshot, error) {
	return PublishSaying(ctx, s, l, meta, ram, func(*store.Spec) {})
}

// PublishSaying is Publish of a snapshot that says more, or other things.
func PublishSaying(ctx context.Context, s *store.Store, l *store.Lease, meta store.Meta, ram []byte, say func(*store.Spec)) (*store.Snapshot, error) {
	in, err := s.Ingest(ctx, l)
	if err != nil {
		return nil, err
	}
	sn, err := fill(ctx, in, meta, ram, say)
	if err != nil {
		return nil, errors.Join(err, in.Abort())
	}
	return sn, nil
}

func fill(ctx context.Context, in *store.Ingest, meta store.Meta, ram []byte, say func(*store.Spec)) (*store.Snapshot, error) {
	m, err := writeMemory(ctx, in, uint64(len(ram)), bytes.NewReader(ram))
	if err != nil {
		return nil, err
	}
	sp, err := spec(ctx, in, m)
	if err != nil {
		return nil, err
	}
	say(&sp)
	return in.Commit(ctx, sp, meta)
}

func MustPublish(t testing.TB, s *store.Store, name string, ram []byte) *store.Snapshot {
	t.Helper()
	l := Lease(t, s)
	sn, err := Publish(t.Context(), s, l, store.Meta{Name: name}, ram)
	if err := errors.Join(err, l.Release()); err != nil {
		t.Fatal(err)
	}
	return sn
}

func mustRemove(t testing.TB, s *store.Store, id store.ID) {
	t.Helper()
	if err := s.Remove(t.Context(), id, store.RemoveOptions{}); err != nil {
		t.Fatal(err)
	}
}

// ReadsBack fails unless the snapshot's RAM is what was published.
func ReadsBack(t testing.TB, s *store.Store, id store.ID, ram []byte) {
	t.Helper()
	sn, err := s.Get(t.Context(), id)
	if err != nil {
		t.Error(err)
		return
	}
	im, err := contents.Of(s, sn).Memory(t.Context(), 0)
	if err != nil {
		t.Error(err)
		return
	}
	defer im.Close()
	got := make([]byte, len(ram))
	if _, err := im.ReadAt(got, 0); err != nil || !bytes.Equal(got, ram) {
		t.Errorf("RAM of %s read back differs (%v)", id, err)
	}
}

// PackOf is a snapshot's first pack.
func PackOf(t testing.TB, sn *store.Snapshot) digest.Digest {
	t.Helper()
	for _, l := range sn.Manifest.Layers {
		if l.MediaType == store.MediaTypePack {
			return l.Digest
		}
	}
	t.Fatal("the snapshot has no pack")
	return ""
}

func entries(t testing.TB, dir string) []string {
	t.Helper()
	found, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, e := range found {
		names = append(names, e.Name())
	}
	return names
}

func blobs(t testing.TB, s *store.Store) []string {
	t.Helper()
	return entries(t, s.Path("blobs", "sha256"))
}
