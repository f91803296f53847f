package store

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"os"

	"golang.org/x/sys/unix"

	"github.com/cocoonv2/cocoon/internal/base/failure"
	"github.com/cocoonv2/cocoon/internal/base/spelling"
	"github.com/cocoonv2/cocoon/store/contents"
	"github.com/cocoonv2/cocoon/store/document"
)

// Get reads a snapshot: manifest, spec (verified by digest) and meta. Where only
// meta.json is lost the snapshot stands beside the error.
func (s *Store) Get(ctx context.Context, id ID) (*Snapshot, error) {
	sn, err := s.contents(ctx, id)
	if err != nil {
		return nil, err
	}
	if sn.Meta, err = readMeta(sn.Dir); err != nil {
		if errors.Is(err, failure.Damaged) {
			return sn, err
		}
		return nil, err
	}
	sn.State = Ready
	if sn.Meta.Quarantine != nil {
		sn.State = Quarantined
	}
	return sn, nil
}

// contents reads what a snapshot is made of, its manifest and spec. Its Meta is
// empty: whatever that says, or if it is lost, the snapshot needs the same.
func (s *Store) contents(ctx context.Context, id ID) (*Snapshot, error) {
	if !spelling.ID(string(id)) {
		return nil, failure.New(failure.NotFound, "no snapshot %q", id)
	}
	for {
		sn := &Snapshot{ID: id, Dir: s.Path("snapshots", string(id)), State: Damaged}
		b, err := document.ManifestFile.Read(sn.Dir + "/manifest.json")
		if errors.Is(err, os.ErrNotExist) {
			return nil, failure.New(failure.NotFound, "no snapshot %s", id)
		}
		if errors.Is(err, unix.ENOTDIR) {
			err = failure.Wrap(failure.Damaged, err)
		}
		if err != nil {
			return nil, fmt.Errorf("snapshot %s: %w", id, err)
		}
		if err := sn.ReadManifest(b); err != nil {
			return nil, fmt.Errorf("snapshot %s: %w", id, err)
		}
		err = s.readSpec(ctx, sn)
		if err == nil {
			return sn, nil
		}
		if !errors.Is(err, failure.Damaged) || s.Current(sn) {
			return nil, fmt.Errorf("snapshot %s: %w", id, err)
		}
		// Its manifest was replaced while we read, and what the old one names is gone.
	}
}

func (s *Store) readSpec(ctx context.Context, sn *Snapshot) error {
	spec, err := s.ReadBlob(ctx, sn.Manifest.Config.Digest)
	if err != nil {
		return contents.AsDamage(err)
	}
	if sn.Spec, err = document.DecodeSpec(spec); err != nil {
		return err
	}
	if sn.Spec.ID != sn.ID {
		return failure.New(failure.Damaged, "its config says %s", sn.Spec.ID)
	}
	// The manifest has no digest that could be compared: a flipped bit in the key
	// of its layers would leave the collector nothing to keep.
	return sn.Spec.StandsOn(sn.Manifest.Layers)
}

// IDs lists the snapshot folders, sorted.
func (s *Store) IDs() ([]ID, error) { return s.at.IDs() }

// List yields every snapshot; one that cannot be read yields an error and the
// listing goes on with the next.
func (s *Store) List(ctx context.Context) iter.Seq2[*Snapshot, error] {
	return func(yield func(*Snapshot, error) bool) {
		ids, err := s.IDs()
		if err != nil {
			yield(nil, err)
			return
		}
		for _, id := range ids {
			sn, err := s.Get(ctx, id)
			if errors.Is(err, failure.NotFound) {
				continue // removed meanwhile, or a folder without manifest: gc's
			}
			if !yield(sn, err) || ctx.Err() != nil {
				return
			}
		}
	}
}

// Resolve finds a snapshot by name, id, or unique id prefix of at least three.
func (s *Store) Resolve(ctx context.Context, ref string) (ID, error) {
	couldBeName := spelling.SnapshotName(ref)
	if couldBeName {
		if id, err := s.Names().Find(ctx, ref); err != nil || id != "" {
			return id, err
		}
	}
	ids, err := s.IDs()
	if err != nil {
		return "", err
	}
	id, err := spelling.Find("snapshot", ref, ids, func(id ID) string { return string(id) })
	if couldBeName && errors.Is(err, failure.NotFound) {
		return s.Names().Resolve(ctx, ref)
	}
	return id, err
}
