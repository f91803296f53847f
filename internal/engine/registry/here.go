package registry

import (
	"context"
	"errors"
	"fmt"
	"maps"

	"github.com/cocoonv2/cocoon/internal/base/failure"
	"github.com/cocoonv2/cocoon/internal/base/hint"
	"github.com/cocoonv2/cocoon/store"
	"github.com/cocoonv2/cocoon/store/measure"
)

// A snapshot brings its own id, which its maker chose: that an id is here already
// proves nothing about the contents. A snapshot is already here if this store
// knows the manifest, or finds that the contents are the same. Otherwise the id
// is taken, and the operator decides: the two can be told apart, and neither
// keeps the other out.

// known returns the snapshot if it is here, before anything is fetched, nil if it
// has to be compared or fetched, failure.Conflict if its id is taken by something
// else and no new id was requested.
func (m *Mover) known(ctx context.Context, foreign *store.Snapshot, o PullOptions) (*store.Snapshot, error) {
	here, err := m.Store.Get(ctx, foreign.ID)
	if errors.Is(err, failure.NotFound) {
		return nil, nil
	}
	if err != nil || here.ManifestDigest == foreign.ManifestDigest {
		return nil, nil // what is damaged of it is replaced by what comes
	}
	if here.Means(foreign.ManifestDigest) {
		return m.claim(ctx, here, o)
	}
	renamed, err := m.meant(ctx, foreign.ManifestDigest)
	if err == nil {
		return m.claim(ctx, renamed, o)
	}
	if !errors.Is(err, failure.NotFound) {
		return nil, err
	}
	alike, err := measure.Alike(&here.Spec, &foreign.Spec)
	if err != nil || alike || o.NewID {
		return nil, err
	}
	return nil, taken(here, foreign, nil)
}

// compared is called once all of a snapshot has arrived, and returns the same as
// known.
func (m *Mover) compared(ctx context.Context, sn *store.Snapshot, o PullOptions) (here *store.Snapshot, renew bool, err error) {
	here, err = m.Store.Get(ctx, sn.ID)
	if errors.Is(err, failure.NotFound) {
		return nil, false, nil
	}
	if err == nil && here.Means(sn.ManifestDigest) {
		here, err = m.claim(ctx, here, o)
		return here, false, err
	}
	if err == nil {
		var same bool
		if same, err = m.sameAndSound(ctx, here, sn); same {
			if here, err = m.remember(ctx, here.ID, sn.ManifestDigest); err == nil {
				here, err = m.claim(ctx, here, o)
			}
			return here, false, err
		}
	}
	if err != nil && !errors.Is(err, failure.Damaged) {
		return nil, false, err
	}
	if o.NewID {
		return nil, true, nil
	}
	return nil, false, taken(here, sn, err)
}

// sameAndSound reports whether the snapshot here has the contents of the arriving
// one. For the latter, the packs' own word about their pages suffices; the one
// here must really have them, since it is the result.
func (m *Mover) sameAndSound(ctx context.Context, here, sn *store.Snapshot) (bool, error) {
	same, err := measure.Same(ctx, m.Store, here, sn)
	if !same || err != nil {
		return false, err
	}
	err = readPages(ctx, m.Store, here)
	return err == nil, err
}

func taken(here, foreign *store.Snapshot, why error) error {
	name := ""
	if here != nil && here.Meta.Name != "" {
		name = fmt.Sprintf(" (%s)", here.Meta.Name)
	}
	err := failure.New(failure.Conflict, "snapshot %s%s is here already with other contents than manifest %s", foreign.ID, name, foreign.ManifestDigest)
	if why != nil {
		err = failure.New(failure.Conflict, "snapshot %s%s is here already and cannot be compared with manifest %s: %w", foreign.ID, name, foreign.ManifestDigest, why)
	}
	return failure.Hint(err, "import it beside the existing one with "+hint.NewID.Of()+", or remove that first: "+hint.Remove.Of(string(foreign.ID)))
}

// nameFree refuses a name that something else has.
func (m *Mover) nameFree(ctx context.Context, foreign *store.Snapshot, o PullOptions) error {
	taken := m.Store.Names().Free(ctx, o.Meta.Name)
	if !errors.Is(taken, failure.Conflict) {
		return taken
	}
	id, err := m.Store.Names().Resolve(ctx, o.Meta.Name)
	if err != nil {
		return err
	}
	holder, err := m.Store.Get(ctx, id)
	if err != nil && id == foreign.ID {
		return nil // what comes may replace it
	}
	if err != nil || holder.Means(foreign.ManifestDigest) {
		return err
	}
	if alike, err := measure.Alike(&holder.Spec, &foreign.Spec); alike || err != nil {
		return err
	}
	return taken
}

// claim gives the snapshot that is here the requested name, description and
// labels.
func (m *Mover) claim(ctx context.Context, here *store.Snapshot, o PullOptions) (*store.Snapshot, error) {
	want, have := o.Meta, here.Meta
	if want.Name != "" && have.Name != "" && want.Name != have.Name {
		remedy := "use it by that name, or give it the other one: " + hint.Rename.Of(have.Name, want.Name)
		if o.NewID {
			remedy = hint.NewID.Of() + " is for other contents of the same id, these are the same; " + remedy
		}
		return nil, failure.Hint(failure.New(failure.Conflict, "snapshot %s is here already, as %s", here.ID, have.Name), remedy)
	}
	if (want.Name == "" || want.Name == have.Name) && want.Description == "" && len(want.Labels) == 0 {
		return here, nil
	}
	err := m.Store.SetMeta(ctx, here.ID, func(meta *store.Meta) error {
		if meta.Name == "" {
			meta.Name = want.Name
		}
		if want.Description != "" {
			meta.Description = want.Description
		}
		if meta.Labels == nil {
			meta.Labels = map[string]string{}
		}
		maps.Copy(meta.Labels, want.Labels)
		return nil
	})
	if err != nil {
		return nil, err
	}
	return m.Store.Get(ctx, here.ID)
}
