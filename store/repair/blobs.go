package repair

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/cocoonv2/cocoon/internal/base/failure"
	"github.com/cocoonv2/cocoon/store"
	"github.com/cocoonv2/cocoon/store/document"
	"github.com/cocoonv2/cocoon/store/keyring"
)

// maintenanceWait is how long a collector may keep a repair waiting that has to
// replace a manifest.
const maintenanceWait = time.Minute

// blobs repairs what was found. Behind a config that was fetched there may be more:
// that snapshot is verified once more. The answer is all that was found.
func (r *run) blobs(ctx context.Context, found *VerifyReport) (*VerifyReport, error) {
	if len(found.Damaged) == 0 {
		return found, nil
	}
	var err error
	if r.lease, err = r.st.Lease(ctx, "system repair"); err != nil {
		return nil, err
	}
	defer r.lease.Release()
	if r.in, err = r.st.Ingest(ctx, r.lease); err != nil {
		return nil, err
	}
	readable, err := r.each(ctx, found)
	if err != nil || len(readable) == 0 {
		return found, err
	}
	behind, err := Verify(ctx, r.st, readable, VerifyOptions{ReadData: true})
	if err != nil {
		return nil, err
	}
	r.rep.BytesRead += behind.BytesRead
	_, err = r.each(ctx, behind)
	found.Damaged = append(found.Damaged, behind.Damaged...)
	return found, err
}

// each tries every damaged object. It answers the snapshots that can be read
// since.
func (r *run) each(ctx context.Context, found *VerifyReport) (readable []store.ID, err error) {
	blobs, packs, err := r.named(ctx)
	if err != nil {
		return nil, err
	}
	told := map[string]bool{}
	for _, d := range found.Damaged {
		told[d.Object] = true
		if strings.HasPrefix(d.Object, MetaObject) {
			continue // it is made again before all else
		}
		if m, is := strings.CutPrefix(d.Object, "page map "); is && told["blob "+m] {
			continue // it could not be read for that reason
		}
		how, err := r.one(ctx, d, blobs, packs)
		switch {
		case errors.Is(err, failure.Damaged), errors.Is(err, failure.NotFound), keyring.IsMissing(err):
			r.left(d.Object, err, d.Affects...)
		case err != nil:
			return nil, err
		default:
			r.repaired(d.Object, how, d.Affects...)
			if strings.HasPrefix(d.Object, "snapshot ") && !r.o.DryRun {
				readable = append(readable, d.Affects...)
			}
		}
	}
	return readable, nil
}

// named are the blobs that readable manifests name, and which of them are packs.
func (r *run) named(ctx context.Context) (blobs map[digest.Digest]store.Descriptor, packs map[digest.Digest]bool, err error) {
	blobs, packs = map[digest.Digest]store.Descriptor{}, map[digest.Digest]bool{}
	for sn, err := range r.st.List(ctx) {
		if err != nil {
			continue // it is among the damaged
		}
		for _, l := range append([]store.Descriptor{sn.Manifest.Config}, sn.Manifest.Layers...) {
			blobs[l.Digest] = l
			packs[l.Digest] = packs[l.Digest] || l.MediaType == store.MediaTypePack
		}
	}
	return blobs, packs, ctx.Err()
}

func (r *run) one(ctx context.Context, d Damage, blobs map[digest.Digest]store.Descriptor, packs map[digest.Digest]bool) (string, error) {
	blob := digest.Digest(strings.TrimPrefix(d.Object, "blob "))
	want, named := blobs[blob]
	why := failure.New(failure.Damaged, "want %s, got %s: import or pull the snapshot again, or remove it", d.Want, d.Got)
	switch {
	case packs[blob]:
		return r.pack(ctx, blob, want, d.Affects)
	case named:
		return r.fetch(ctx, want, why)
	}
	if id, is := strings.CutPrefix(d.Object, "snapshot "); is {
		if config, err := configOf(r.st, store.ID(id)); err == nil {
			return r.fetch(ctx, config, why)
		}
	}
	return "", why
}

// fetch takes a blob in from elsewhere, or is the error why.
func (r *run) fetch(ctx context.Context, d store.Descriptor, why error) (string, error) {
	if r.o.Fetch == nil {
		return "", why
	}
	if r.o.DryRun {
		return "would be fetched, if it is there", nil
	}
	from, err := r.o.Fetch(ctx, r.in, d)
	if err != nil {
		return "", fmt.Errorf("%w; %w", why, err)
	}
	return "fetched from " + from, nil
}

// pack makes a pack whole, or fetches it, or gives it up for another one.
func (r *run) pack(ctx context.Context, d digest.Digest, want store.Descriptor, affects []store.ID) (string, error) {
	if err := r.lease.Hold(ctx, d); err != nil {
		return "", err
	}
	how, err := rebuild(ctx, r.st, r.in, d, affects, r.o)
	if err == nil {
		return "made whole: " + how, nil
	}
	if !errors.Is(err, failure.Damaged) && !keyring.IsMissing(err) {
		return "", err
	}
	if fetched, ferr := r.fetch(ctx, want, err); ferr == nil {
		return fetched, nil
	} else if r.o.Fetch != nil {
		err = ferr
	}
	how, serr := r.giveUp(ctx, d, affects)
	if errors.Is(serr, failure.Busy) {
		return "", serr
	}
	if serr != nil {
		return "", fmt.Errorf("%w; %w", err, serr)
	}
	return "given up: " + how, nil
}

func (r *run) giveUp(ctx context.Context, d digest.Digest, affects []store.ID) (string, error) {
	g, err := planGiveUp(ctx, r.st, r.in, d, affects, r.o)
	if err != nil {
		return "", err
	}
	defer g.Close()
	if r.o.DryRun {
		return g.how, nil
	}
	m, err := r.st.Maintain(ctx, maintenanceWait, "system repair")
	if err != nil {
		return "", err
	}
	defer m.End()
	return g.how, g.carryOut(ctx, m)
}

// configOf is the descriptor of a snapshot's config, though that be damaged.
func configOf(st *store.Store, id store.ID) (store.Descriptor, error) {
	b, err := document.ManifestFile.Read(st.Path("snapshots", string(id), "manifest.json"))
	if err != nil {
		return store.Descriptor{}, err
	}
	sn, err := document.DecodeManifest(b)
	if err != nil {
		return store.Descriptor{}, err
	}
	return sn.Manifest.Config, nil
}
