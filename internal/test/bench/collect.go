package main

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/opencontainers/go-digest"
	specs "github.com/opencontainers/image-spec/specs-go"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"golang.org/x/sync/errgroup"

	"github.com/cocoonv2/cocoon/internal/base/filelock"
	"github.com/cocoonv2/cocoon/store"
	"github.com/cocoonv2/cocoon/store/sleep"
)

// collecting measures gc of a large store: alone with nothing to do, then with
// a tenth of the blobs to discard while snapshots are made beside it.
func (b *bench) collecting() error {
	ctx := context.Background()
	root := filepath.Join(b.work, "large")
	s, err := store.Open(ctx, root, store.Options{Create: true, Veto: sleep.Veto})
	if err != nil {
		return err
	}
	fmt.Fprintf(os.Stderr, "making %d snapshots of %d blobs\n", b.snapshots, b.blobs)
	if err := fillLarge(s, b.snapshots, b.blobs/b.snapshots); err != nil {
		return err
	}
	env := []string{"COCOON_ROOT_DIR=" + root, "COCOON_RUN_DIR=" + root + ".run"}
	what := fmt.Sprintf("of %d snapshots, %d blobs", b.snapshots, b.blobs)
	idle, err := timed(env, b.cocoon, "gc", "--format", "json")
	if err != nil {
		return err
	}
	row("`gc` "+what+", nothing to do", ms(idle.wall), "", "", "≤ 5 s")
	row("peak memory of that gc", mib(idle.peak), "", "", "≤ 300 MiB")
	ids, err := s.IDs()
	if err != nil {
		return err
	}
	for _, id := range ids[:len(ids)/10] {
		if err := os.RemoveAll(s.Path("snapshots", string(id))); err != nil {
			return err
		}
	}
	busy, waits, err := b.beside(ctx, s, env)
	if err != nil {
		return err
	}
	var rep struct {
		LockMs  float64
		Removed []struct{}
	}
	if err := json.Unmarshal([]byte(busy.out), &rep); err != nil {
		return err
	}
	row(fmt.Sprintf("`gc` that discards %d objects %s, beside 4 that create", len(rep.Removed), what), ms(busy.wall), "", "", "≤ 20 s for 100,000")
	row("longest that it locked the store", fmt.Sprintf("%.1f ms", rep.LockMs), "", "", "≤ 10 ms")
	row(fmt.Sprintf("wait of creates for the store lock meanwhile (%d), p50, p99, most", len(waits)),
		fmt.Sprintf("%.2f, %.2f, %.1f ms", wait(waits, 50), wait(waits, 99), wait(waits, 100)), "", "", "p99 ≤ 10 ms")
	return os.RemoveAll(root)
}

func wait(sorted []time.Duration, percent int) float64 {
	return float64(sorted[(len(sorted)-1)*percent/100].Microseconds()) / 1000
}

// beside runs gc while four make snapshots and one asks for the store lock as a
// create does, again and again, and measures how long it waits.
func (b *bench) beside(ctx context.Context, s *store.Store, env []string) (took, []time.Duration, error) {
	ctx, stop := context.WithCancel(ctx)
	defer stop()
	var g errgroup.Group
	for w := range 4 {
		g.Go(func() error {
			for i := 0; ctx.Err() == nil; i++ {
				if err := publish(context.WithoutCancel(ctx), s, b.snapshots+w+4*i); err != nil {
					return err
				}
				time.Sleep(20 * time.Millisecond)
			}
			return nil
		})
	}
	var waits []time.Duration
	locks := filelock.Pair{Gate: s.Path("gate.lock"), Store: s.Path("store.lock")}
	g.Go(func() error {
		for ctx.Err() == nil {
			start := time.Now()
			lock, err := locks.Shared(context.WithoutCancel(ctx))
			if err != nil {
				return err
			}
			waits = append(waits, time.Since(start))
			if err := lock.Unlock(); err != nil {
				return err
			}
			time.Sleep(time.Millisecond)
		}
		return nil
	})
	t, err := timed(env, b.cocoon, "gc", "--accept-loss", "--format", "json") // what was removed left no trace
	stop()
	if werr := g.Wait(); err == nil {
		err = werr
	}
	slices.Sort(waits)
	return t, waits, err
}

// fillLarge writes n snapshots with blobs of their own, without waiting for the
// disk: nothing here has to survive.
func fillLarge(s *store.Store, n, blobs int) error {
	var g errgroup.Group
	g.SetLimit(8)
	for i := range n {
		g.Go(func() error { return writeSnapshot(s, i, blobs) })
	}
	return g.Wait()
}

func writeSnapshot(s *store.Store, i, blobs int) error {
	blob := func(mediaType string, b []byte) (store.Descriptor, error) {
		d := store.Descriptor{MediaType: mediaType, Digest: digest.FromBytes(b), Size: int64(len(b))}
		return d, os.WriteFile(s.BlobPath(d.Digest), b, 0o400)
	}
	m := ocispec.Manifest{Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: ocispec.MediaTypeImageManifest, ArtifactType: store.ArtifactType}
	for k := range blobs - 1 {
		d, err := blob(store.MediaTypePack, fmt.Appendf(nil, "pack %d of %d", k, i))
		if err != nil {
			return err
		}
		m.Layers = append(m.Layers, d)
	}
	sp := store.Spec{
		Version: 1, ID: store.ID(fmt.Sprintf("%032x", i+1)), VM: store.VMRef{Name: "large"},
		CHConfig: m.Layers[0].Digest, CHState: m.Layers[0].Digest, Record: []byte("{}"),
	}
	spec, err := json.Marshal(sp)
	if err != nil {
		return err
	}
	if m.Config, err = blob(store.MediaTypeConfig, spec); err != nil {
		return err
	}
	manifest, err := json.Marshal(m)
	if err != nil {
		return err
	}
	dir := s.Path("snapshots", string(sp.ID))
	if err := os.Mkdir(dir, 0o700); err != nil {
		return err
	}
	for name, b := range map[string][]byte{"manifest.json": manifest, "meta.json": []byte(`{"labels":{}}`)} {
		if err := os.WriteFile(filepath.Join(dir, name), b, 0o600); err != nil {
			return err
		}
	}
	return nil
}
