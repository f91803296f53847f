package store

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"os"
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/cocoonv2/cocoon/internal/base/durable"
	"github.com/cocoonv2/cocoon/internal/base/failure"
	"github.com/cocoonv2/cocoon/store/document"
	"github.com/cocoonv2/cocoon/store/lease"
)

// A published snapshot is replaced by one with the same id and the same contents
// that names other blobs. Its folder is made anew beside it and exchanged for it
// by one renameat2(RENAME_EXCHANGE), under names.lock and the exclusive store
// lock: at each moment there is one whole snapshot of that id. Only who has a
// Maintenance may do so, so no collector has read the old manifest and decides
// by it. Readers lease what a manifest names and then look whether it is still
// the same (HoldEdges).

// formerAnnotation of a manifest: earlier programs noted there what Meta.Former
// says now. It counts for nothing, and goes when the manifest is replaced.
const formerAnnotation = "io.cocoon.manifest.former"

// Current says whether the manifest on disk is still the one that was read; a
// snapshot that is gone is not.
func (s *Store) Current(sn *Snapshot) bool {
	b, err := document.ManifestFile.Read(s.Path("snapshots", string(sn.ID), "manifest.json"))
	return err == nil && digest.FromBytes(b) == sn.ManifestDigest
}

// ErrChanged: what was to be replaced is not what was read.
var ErrChanged = errors.New("it was changed meanwhile")

// replacement is a snapshot as it is and as it shall be.
type replacement struct {
	old  *Snapshot
	spec Spec
	// config and layers of the new manifest, all durable and leased.
	config Descriptor
	layers []Descriptor
}

// manifest gives the new manifest's bytes.
func (r *replacement) manifest() ([]byte, error) {
	m := r.old.Manifest
	m.Config, m.Layers = r.config, r.layers
	m.Annotations = maps.Clone(m.Annotations)
	delete(m.Annotations, formerAnnotation)
	return json.MarshalIndent(m, "", "  ")
}

// meta gives the new meta.json: as it was, and what the manifest was.
func (r *replacement) meta(raw []byte) ([]byte, error) {
	var m Meta
	if err := json.Unmarshal(raw, &m); err != nil {
		return nil, failure.New(failure.Damaged, "%s/meta.json: %w", r.old.Dir, err)
	}
	m.Remember(r.old.ManifestDigest)
	return m.Encode()
}

// Replace exchanges a snapshot for one of this spec whose manifest names these
// layers: all durable, and held by the ingest's lease. failure.Conflict when
// another holds it now, ErrChanged when it is not any more what was read.
func (m *Maintenance) Replace(ctx context.Context, in *Ingest, old *Snapshot, spec Spec, layers []Descriptor) error {
	r := &replacement{old: old, spec: spec, layers: layers}
	var err error
	if r.config, err = in.putSpec(ctx, &r.spec); err != nil {
		return err
	}
	durable.Step("store.repack.mapped")
	return m.replace(ctx, in, r)
}

func (m *Maintenance) replace(ctx context.Context, in *Ingest, r *replacement) error {
	manifest, err := r.manifest()
	if err != nil {
		return err
	}
	if err := m.st.allThere(append([]Descriptor{r.config}, r.layers...)); err != nil {
		return err
	}
	for try := 0; ; try++ {
		meta, err := rawMeta(r.old.Dir)
		if err != nil {
			return err
		}
		next, err := r.meta(meta)
		if err != nil {
			return err
		}
		staged, err := in.stageFolder(fmt.Sprintf("%s-%d", r.old.ID, try), manifest, next)
		if err != nil {
			return err
		}
		durable.Step("store.repack.staged")
		err = m.st.Names().Lock(ctx, func() error {
			if now, err := rawMeta(r.old.Dir); err != nil || !bytes.Equal(now, meta) {
				return errors.Join(errMetaChanged, err)
			}
			return m.exchange(ctx, in, r, staged)
		})
		if errors.Is(err, errMetaChanged) && m.st.Current(r.old) {
			continue // renamed or tagged meanwhile: with that, once more
		}
		if err != nil {
			return err
		}
		return replaced(r, staged)
	}
}

var errMetaChanged = fmt.Errorf("meta.json: %w", ErrChanged)

// exchange is the instant in which nobody leases, publishes or removes.
func (m *Maintenance) exchange(ctx context.Context, in *Ingest, r *replacement, staged string) error {
	return m.st.at.Exclusive(ctx, func() error {
		since := time.Now()
		defer func() { m.locked = max(m.locked, time.Since(since)) }()
		return m.exchangeNow(ctx, in, r, staged)
	})
}

func (m *Maintenance) exchangeNow(ctx context.Context, in *Ingest, r *replacement, staged string) error {
	live, err := m.st.Leases().Live(ctx)
	if err != nil {
		return err
	}
	if who := lease.HeldBy(live, in.lease.ID(), r.old.ID, r.old.Manifest.Config.Digest); who != "" {
		return failure.New(failure.Conflict, "snapshot %s is in use by: %s", r.old.ID, who)
	}
	if !m.st.Current(r.old) {
		return ErrChanged
	}
	if err := durable.Exchange(staged, r.old.Dir); err != nil {
		return fmt.Errorf("replace snapshot %s: %w", r.old.ID, err)
	}
	if m.st.onReplace == nil {
		return nil
	}
	return m.st.onReplace(r.old, &Snapshot{ID: r.old.ID, Spec: r.spec}, live)
}

// replaced makes the exchange durable. The old folder, at staged now, goes with the
// ingest.
func replaced(r *replacement, staged string) error {
	durable.Step("store.repack.replaced")
	if err := durable.SyncParents(staged, r.old.Dir); err != nil {
		return fmt.Errorf("replace snapshot %s: %w", r.old.ID, err)
	}
	return nil
}

// allThere looks at each of the blobs once more.
func (s *Store) allThere(blobs []Descriptor) error {
	for _, d := range blobs {
		fi, err := os.Stat(s.BlobPath(d.Digest))
		if err != nil || fi.Size() != d.Size {
			return failure.New(failure.Damaged, "commit: blob %s of %d bytes is not there: %w", d.Digest, d.Size, err)
		}
	}
	return nil
}
