package house

import (
	"context"
	"slices"

	"github.com/cocoonv2/cocoon/internal/base/failure"
	"github.com/cocoonv2/cocoon/store"
	"github.com/cocoonv2/cocoon/store/index"
)

// Summary returns the list row of the snapshot named by ref.
func Summary(ctx context.Context, st *store.Store, ref string) (*index.Summary, error) {
	id, err := st.Resolve(ctx, ref)
	if err != nil {
		return nil, err
	}
	all, err := st.Index().Summaries(ctx)
	if err != nil {
		return nil, err
	}
	i := slices.IndexFunc(all, func(s index.Summary) bool { return s.ID == id })
	if i < 0 {
		return nil, failure.New(failure.NotFound, "snapshot %s was removed meanwhile", id)
	}
	return &all[i], nil
}
