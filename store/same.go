package store

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"runtime"
	"slices"

	"github.com/opencontainers/go-digest"

	"github.com/cocoonv2/cocoon/internal/failure"
	"github.com/cocoonv2/cocoon/store/pack"
)

// Alike says whether two specs differ in their page maps at most, which are
// others where pages were moved.
func Alike(a, b *Spec) (bool, error) {
	ja, err := json.Marshal(a.withoutMaps())
	if err != nil {
		return false, err
	}
	jb, err := json.Marshal(b.withoutMaps())
	return bytes.Equal(ja, jb), err
}

func (sp Spec) withoutMaps() Spec {
	sp.Memory, sp.Disks = slices.Clone(sp.Memory), slices.Clone(sp.Disks)
	for i := range sp.Memory {
		sp.Memory[i].Map = ""
	}
	for i := range sp.Disks {
		sp.Disks[i].Map = ""
	}
	return sp
}

// SameContents says whether two snapshots are one, in whatever packs their pages
// stand: their specs are alike and every page has the same hash. No page is read.
// The blobs of both are here.
func (s *Store) SameContents(ctx context.Context, a, b *Snapshot) (bool, error) {
	same, err := Alike(&a.Spec, &b.Spec)
	if !same || err != nil {
		return false, err
	}
	if err := errors.Join(s.Unlock(ctx, a), s.Unlock(ctx, b)); err != nil {
		return false, err
	}
	for i := range a.Spec.Memory {
		x, y := a.Spec.Memory[i], b.Spec.Memory[i]
		if same, err := s.samePages(ctx, a, b, mapOf{x.Map, x.Bytes}, mapOf{y.Map, y.Bytes}); !same || err != nil {
			return false, err
		}
	}
	for i := range a.Spec.Disks {
		x, y := a.Spec.Disks[i], b.Spec.Disks[i]
		if x.Image != "" {
			continue // the specs name the same
		}
		if same, err := s.samePages(ctx, a, b, mapOf{x.Map, uint64(x.Bytes)}, mapOf{y.Map, uint64(y.Bytes)}); !same || err != nil {
			return false, err
		}
	}
	return true, nil
}

// mapOf is the page map of an image of so many bytes.
type mapOf struct {
	digest digest.Digest
	bytes  uint64
}

func (s *Store) samePages(ctx context.Context, a, b *Snapshot, x, y mapOf) (bool, error) {
	if x == y {
		return true, nil
	}
	ia, err := s.openImage(ctx, a, x.digest, x.bytes)
	if err != nil {
		return false, fmt.Errorf("snapshot %s: %w", a.ID, err)
	}
	defer ia.Close()
	ib, err := s.openImage(ctx, b, y.digest, y.bytes)
	if err != nil {
		return false, fmt.Errorf("snapshot %s: %w", b.ID, err)
	}
	defer ib.Close()
	same, err := pack.Same(ctx, ia, ib)
	if err != nil {
		return false, fmt.Errorf("compare page maps %s and %s: %w", x.digest, y.digest, err)
	}
	return same, nil
}

// ReadPages reads every page of a snapshot and compares it with its hash. Blobs that
// are what their digests say can still be wrong: whoever wrote a pack says in it what
// its pages are.
func (s *Store) ReadPages(ctx context.Context, sn *Snapshot) error {
	if err := s.Unlock(ctx, sn); err != nil {
		return err
	}
	read := func(m mapOf) error {
		im, err := s.openImage(ctx, sn, m.digest, m.bytes)
		if err != nil {
			return fmt.Errorf("snapshot %s: %w", sn.ID, err)
		}
		defer im.Close()
		if err := im.EachFrame(ctx, runtime.GOMAXPROCS(0), func(int, []pack.Part) error { return nil }); err != nil {
			return fmt.Errorf("snapshot %s: page map %s: %w", sn.ID, m.digest, err)
		}
		return nil
	}
	for _, m := range sn.Spec.Memory {
		if err := read(mapOf{m.Map, m.Bytes}); err != nil {
			return err
		}
	}
	for _, d := range sn.Spec.Disks {
		if d.Map == "" {
			continue
		}
		if err := read(mapOf{d.Map, uint64(d.Bytes)}); err != nil {
			return err
		}
	}
	return nil
}

// Renew gives a foreign snapshot, whose blobs have all landed, the id of this
// ingest: a new spec and a new manifest, which is answered with it. The blobs stay
// what they are. An encrypted one needs its key, which vouches for the spec.
func (in *Ingest) Renew(ctx context.Context, sn *Snapshot) (*Snapshot, []byte, error) {
	if err := in.st.Unlock(ctx, sn); err != nil {
		return nil, nil, err
	}
	if err := in.Use(sn.Spec.Key); err != nil {
		return nil, nil, err
	}
	renewed := *sn
	renewed.Spec.ID, renewed.ID = in.id, in.id
	var err error
	if renewed.Manifest.Config, err = in.putSpec(ctx, &renewed.Spec); err != nil {
		return nil, nil, err
	}
	b, err := json.MarshalIndent(renewed.Manifest, "", "  ")
	if err != nil {
		return nil, nil, err
	}
	if err := renewed.readManifest(b); err != nil {
		return nil, nil, failure.New(failure.Damaged, "renew snapshot %s: %w", sn.ID, err)
	}
	renewed.Meta = Meta{}
	renewed.Meta.remember(sn.ManifestDigest)
	return &renewed, b, nil
}
