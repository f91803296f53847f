package registry

import (
	"context"
	"fmt"
	"runtime"

	"github.com/cocoonv2/cocoon/store"
	"github.com/cocoonv2/cocoon/store/contents"
	"github.com/cocoonv2/cocoon/store/pack"
)

// readPages reads every page of a snapshot and compares it with its hash. Blobs
// that match their digests can still be wrong: the writer of a pack states in it
// what its pages are.
func readPages(ctx context.Context, st *store.Store, sn *store.Snapshot) error {
	if err := contents.Of(st, sn).Unlock(ctx); err != nil {
		return err
	}
	read := func(im *pack.Image, err error) error {
		if err != nil {
			return fmt.Errorf("snapshot %s: %w", sn.ID, err)
		}
		defer im.Close()
		if err := im.EachFrame(ctx, runtime.GOMAXPROCS(0), func(int, []pack.Part) error { return nil }); err != nil {
			return fmt.Errorf("snapshot %s: %w", sn.ID, err)
		}
		return nil
	}
	for i := range sn.Spec.Memory {
		if err := read(contents.Of(st, sn).Memory(ctx, i)); err != nil {
			return err
		}
	}
	for i, d := range sn.Spec.Disks {
		if d.Map == "" {
			continue
		}
		if err := read(contents.Of(st, sn).Disk(ctx, i)); err != nil {
			return err
		}
	}
	return nil
}
