package restore

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"

	"golang.org/x/sync/errgroup"

	"github.com/cocoonv2/cocoon/chsnap"
	"github.com/cocoonv2/cocoon/chsnap/migration"
	"github.com/cocoonv2/cocoon/internal/base/durable"
	"github.com/cocoonv2/cocoon/store/contents"
	"github.com/cocoonv2/cocoon/store/pack"
)

// stream pushes the snapshot into the VMM, which waits in vm.receive-migration:
// configuration, the non-zero pages straight from the packs, device state. No
// RAM-sized file is made. After any failure the VMM is useless and may be blocked
// for ever: the undo of launch kills it.
func (r *run) stream(ctx context.Context) error {
	c, s, err := r.documents(ctx)
	if err != nil {
		return err
	}
	config, err := chsnap.MigrationConfig(c, s)
	if err != nil {
		return err
	}
	socket := filepath.Join(r.VMs.RunDir(r.rec.ID), "receive.sock")
	g, gctx := errgroup.WithContext(ctx)
	g.Go(func() error { return r.VMs.Client(r.rec).ReceiveMigration(gctx, socket) })
	g.Go(func() error {
		p := migration.Pusher{Socket: socket, Lanes: streamLanes(), Timeout: r.VMs.Patience().Call()}
		return p.Push(gctx, config, s.Bytes(), r.pushMemory)
	})
	if err := g.Wait(); err != nil {
		if why := r.VMs.LastLog(r.rec.ID); why != "" && ctx.Err() == nil {
			err = fmt.Errorf("%w (the VMM says: %s)", err, why)
		}
		return errors.Join(ctx.Err(), err)
	}
	return os.Remove(socket) // the VMM leaves it behind
}

// streamLanes: the VMM has a thread for each lane, and each is fed by a
// goroutine that decodes and checks pages.
func streamLanes() int { return min(max(2, runtime.NumCPU()), 16) }

func (r *run) pushMemory(ctx context.Context, lanes []*migration.Lane) error {
	durable.Step("restore.streaming")
	told := &meter{total: r.plan.MemoryBytes, onBytes: r.plan.onBytes}
	for i, m := range r.plan.snapshot.Spec.Memory {
		im, err := contents.Of(r.Store, r.plan.snapshot).Open(ctx, r.plan.maps.Memory[i])
		if err != nil {
			return err
		}
		err = push(ctx, im, m.GPA, lanes, told)
		im.Close()
		if err != nil {
			return fmt.Errorf("RAM at %#x of snapshot %s: %w", m.GPA, r.plan.SnapshotID, err)
		}
	}
	durable.Step("restore.streamed")
	return nil
}

// push sends one range of RAM, whose first page is at gpa: each frame of its
// packs is one message.
func push(ctx context.Context, im *pack.Image, gpa uint64, lanes []*migration.Lane, told *meter) error {
	extents := make([][]migration.Extent, len(lanes))
	return im.EachFrame(ctx, len(lanes), func(worker int, parts []pack.Part) error {
		out, bytes := extents[worker][:0], 0
		for _, p := range parts {
			out = append(out, migration.Extent{GPA: gpa + uint64(p.Offset), Data: p.Data})
			bytes += len(p.Data)
		}
		extents[worker] = out
		if err := lanes[worker].Send(out); err != nil {
			return err
		}
		told.add(int64(bytes))
		return nil
	})
}
