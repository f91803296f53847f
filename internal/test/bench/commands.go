package main

import (
	"context"
	"fmt"
	"path/filepath"

	"golang.org/x/sync/errgroup"

	"github.com/cocoonv2/cocoon/internal/test/ramgen"
	"github.com/cocoonv2/cocoon/store"
)

func (b *bench) repeat(env []string, argv ...string) (series, error) {
	var s series
	for range 3 * b.runs {
		if err := s.add(timed(env, argv...)); err != nil {
			return nil, err
		}
	}
	return s, nil
}

func (b *bench) startup() error {
	s, err := b.repeat(nil, b.cocoon, "version")
	if err != nil {
		return err
	}
	row("`cocoon version`", ms(s.wall()), "", "", "≤ 20 ms")
	return nil
}

// listing measures `snapshot list` of a store with many snapshots.
func (b *bench) listing() error {
	root := filepath.Join(b.work, "many")
	if err := fill(root, b.snapshots); err != nil {
		return err
	}
	env := []string{"COCOON_ROOT_DIR=" + root, "COCOON_RUN_DIR=" + root + ".run"}
	cold, err := timed(env, b.cocoon, "snapshot", "list", "-q")
	if err != nil {
		return err
	}
	for _, format := range []string{"table", "json"} {
		s, err := b.repeat(env, b.cocoon, "snapshot", "list", "--format", format)
		if err != nil {
			return err
		}
		row(fmt.Sprintf("`snapshot list --format %s` of %d", format, b.snapshots), ms(s.wall()), "first list of this store "+ms(cold.wall), "", "≤ 150 ms")
	}
	g, err := b.repeat(env, b.cocoon, "gc", "--format", "json")
	if err != nil {
		return err
	}
	row(fmt.Sprintf("`gc` of %d snapshots, nothing to do", b.snapshots), ms(g.wall()), "", "", "≤ 5 s")
	row("peak memory of that gc", mib(g.peak()), "", "", "≤ 300 MiB")
	return b.besideMany(env)
}

// besideMany measures what a capture costs more in a store with many snapshots
// than in one that has none.
func (b *bench) besideMany(many []string) error {
	small := filepath.Join(b.work, "small")
	if err := folder(small, ramgen.New(4<<20, 1)); err != nil {
		return err
	}
	_, alone := b.home("alone")
	var one, beside series
	for i := range 3 * b.runs {
		for _, m := range []struct {
			into *series
			env  []string
		}{{&one, alone}, {&beside, many}} {
			t, err := timed(m.env, b.cocoon, "snapshot", "import", small, "--name", fmt.Sprint("small-", i))
			if err != nil {
				return err
			}
			*m.into = append(*m.into, t)
		}
	}
	more := beside.wall() - one.wall()
	row(fmt.Sprintf("named capture of 4 MiB beside %d snapshots", b.snapshots), ms(beside.wall()), "in an empty store "+ms(one.wall()), "+"+ms(more), "≤ 20 ms more")
	return nil
}

// fill publishes n small snapshots, as hundreds of VMs with dozens each would.
func fill(root string, n int) error {
	ctx := context.Background()
	s, err := store.Open(ctx, root, store.Options{Create: true})
	if err != nil {
		return err
	}
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(8)
	for i := range n {
		g.Go(func() error { return publish(ctx, s, i) })
	}
	return g.Wait()
}

func publish(ctx context.Context, s *store.Store, i int) error {
	l, err := s.Lease(ctx, "bench")
	if err != nil {
		return err
	}
	defer l.Release()
	in, err := s.Ingest(ctx, l)
	if err != nil {
		return err
	}
	d, err := in.Put(ctx, store.MediaTypeCHConfig, fmt.Appendf(nil, `{"vm":%d}`, i/10))
	if err != nil {
		return err
	}
	vm := fmt.Sprintf("%032x", i/20+1)
	sp := store.Spec{VM: store.VMRef{ID: vm, Name: "vm-" + vm[26:]}, CHConfig: d.Digest, CHState: d.Digest, CPUs: 2}
	_, err = in.Commit(ctx, sp, store.Meta{Name: fmt.Sprintf("snap-%05d", i), Labels: map[string]string{"team": "web"}})
	return err
}
