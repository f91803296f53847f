package repack

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"os"
	"slices"

	"github.com/cocoonv2/cocoon/internal/base/failure"
	"github.com/cocoonv2/cocoon/store"
	"github.com/opencontainers/go-digest"
)

// Result says what was done.
type Result struct {
	Snapshots    []store.ID // that have a new manifest
	WrittenBytes int64
}

// batchPages bounds the pages that are moved at once: 8 GiB of guests, about
// 200 MiB of our own tables.
const batchPages = 2 << 20

// Run carries the plan out, as far as it can: a pack that stays after all gets
// its Why. failure.NoSpace, when all else is done, says that packs stay because
// there is no room for their pages.
func Run(ctx context.Context, m *store.Maintenance, p *Plan) (*Result, error) {
	res := &Result{Snapshots: []store.ID{}}
	var short []error
	for todo := p.todo(); len(todo) > 0; {
		batch, pages := []*PackUse{}, 0
		for len(todo) > 0 && (len(batch) == 0 || todo[0].key == batch[0].key && pages+todo[0].Live <= batchPages) {
			batch, pages, todo = append(batch, todo[0]), pages+todo[0].Live, todo[1:]
		}
		err := runBatch(ctx, m, p, batch, res)
		if errors.Is(err, failure.NoSpace) {
			short = append(short, err)
			continue
		}
		if err != nil {
			return res, fmt.Errorf("repack: %w", err)
		}
	}
	if len(short) > 0 {
		return res, fmt.Errorf("repack: %w", errors.Join(short...))
	}
	return res, nil
}

// runBatch rewrites some packs. One that turns out to be damaged stays, and
// the others are tried again without it.
func runBatch(ctx context.Context, m *store.Maintenance, p *Plan, batch []*PackUse, res *Result) error {
	for len(batch) > 0 {
		err := tryBatch(ctx, m, p, batch, res)
		var bad *badPack
		switch {
		case errors.As(err, &bad):
			bad.use.Why = bad.Error()
			batch = slices.DeleteFunc(batch, func(u *PackUse) bool { return u == bad.use })
			continue
		case errors.Is(err, failure.NoSpace):
			for _, u := range batch {
				u.Why = cmp.Or(u.Why, err.Error())
			}
		}
		return err
	}
	return nil
}

func tryBatch(ctx context.Context, m *store.Maintenance, p *Plan, batch []*PackUse, res *Result) error {
	lease, err := m.Lease(ctx, "moving pages")
	if err != nil {
		return err
	}
	defer lease.Release()
	r, err := newMover(ctx, m, p, lease, batch, res)
	if err != nil {
		return err
	}
	return r.run(ctx)
}

// badPack is a pack of which live pages are lost.
type badPack struct {
	use *PackUse
	error
}

func (b *badPack) Unwrap() error { return b.error }

// sizeOf is the size of a blob that is there.
func sizeOf(st *store.Store, d digest.Digest) (int64, error) {
	fi, err := os.Stat(st.BlobPath(d))
	if err != nil {
		return 0, fmt.Errorf("blob %s: %w", d, err)
	}
	return fi.Size(), nil
}
