package vm

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os/exec"
	"path/filepath"
	"time"

	"github.com/cocoonv2/cocoon/chsnap"
	"github.com/cocoonv2/cocoon/internal/base/durable"
	"github.com/cocoonv2/cocoon/internal/base/failure"
	"github.com/cocoonv2/cocoon/internal/base/patience"
	"github.com/cocoonv2/cocoon/internal/base/runfolder"
	"github.com/cocoonv2/cocoon/internal/engine/keeper"
	"github.com/cocoonv2/cocoon/network"
)

// Launch starts the VMM of a VM in a session of its own, in the VM's netns, and
// waits until it answers. It inherits the locks on the seat and the disks, and
// nothing else.
func (m *Manager) Launch(ctx context.Context, rec *Record, args chsnap.Args) (*Process, error) {
	socket := filepath.Join(m.RunDir(rec.ID), fmt.Sprintf("%s%d.sock", apiPrefix, time.Now().UnixNano()%1e6))
	argv, err := m.commandLine(socket, args)
	if err = errors.Join(err, m.checkConfine()); err != nil {
		return nil, err
	}
	entry, err := m.enter(ctx, rec.ID)
	if err != nil {
		return nil, err
	}
	defer entry.Close()
	if err := m.clearVsock(rec); err != nil {
		return nil, err
	}
	vmm, err := m.startVMM(ctx, rec, entry, argv)
	if err != nil {
		return nil, err
	}
	p, err := m.await(ctx, rec, entry, vmm, socket)
	if err != nil {
		return nil, errors.Join(err, m.Kill(context.WithoutCancel(ctx), rec.ID), entry.RemoveSockets(hostSockets))
	}
	return p, nil
}

// commandLine starts a VMM with its API at socket.
func (m *Manager) commandLine(socket string, args chsnap.Args) ([]string, error) {
	var a chsnap.Args
	a.Options("--api-socket", chsnap.PathOption("path", socket))
	a.Append(args)
	list, err := a.List()
	if err != nil {
		return nil, err
	}
	binary, err := exec.LookPath(m.o.Binary)
	if err == nil {
		binary, err = filepath.Abs(binary)
	}
	if err != nil {
		return nil, failure.New(failure.NotFound, "VMM %s: %w", m.o.Binary, err)
	}
	return append([]string{binary}, list...), nil
}

// startVMM starts it with all that it inherits.
func (m *Manager) startVMM(ctx context.Context, rec *Record, entry *runfolder.Entry, argv []string) (*keeper.Started, error) {
	locks, err := m.takeSeat(ctx, rec)
	if err != nil {
		return nil, err
	}
	defer locks.detach()
	if err := m.checkDisks(rec); err != nil {
		return nil, err
	}
	log, err := newLogs(entry)
	if err != nil {
		return nil, err
	}
	defer log.Close()
	return m.o.Keeper.Start(ctx, keeper.Job{
		Dir: m.RunDir(rec.ID), Log: log, LogMax: m.o.SerialLogMax, Argv: argv, Handed: locks.files(), OOMScoreAdj: m.o.OOMScoreAdj, Scope: m.scope(rec),
		In: func(do func() error) error { return network.InNetns(netnsOf(rec), do) },
	})
}

// await waits for the first ping and notes the process's identity.
func (m *Manager) await(ctx context.Context, rec *Record, entry *runfolder.Entry, vmm *keeper.Started, socket string) (*Process, error) {
	start, err := keeper.StartTime(vmm.PID)
	if err != nil {
		return nil, m.died(rec.ID, <-vmm.Gone)
	}
	durable.Step("vm.launched")
	p := &Process{PID: vmm.PID, BootID: bootID(), StartTime: start, APISocket: socket}
	b, err := json.Marshal(Identity{vmm.PID, start, socket, entry.Mark.Store, pidNamespace()})
	if err != nil {
		return nil, err
	}
	if err := entry.Write(identityDocument, identityFile, b); err != nil {
		return nil, err
	}
	ctx, cancel := patience.Bound(ctx, m.o.Patience.Moving(uint64(rec.MemoryBytes)))
	defer cancel()
	client, gone := chsnap.NewClient(socket, m.o.Patience), vmm.Gone
	for {
		ping, err := client.Ping(ctx)
		if err == nil {
			p.Version = ping.Version
			return p, nil
		}
		select {
		case end := <-gone:
			if end != nil || !alive(p) {
				return nil, m.died(rec.ID, end)
			}
			gone = nil // only its keeper died
		case <-ctx.Done():
			if errors.Is(ctx.Err(), context.Canceled) {
				return nil, ctx.Err()
			}
			return nil, failure.New(failure.Conflict, "the VMM did not answer %s: %w", patience.Passed(ctx), err)
		case <-time.After(time.Millisecond):
		}
	}
}

// died explains the end of a VMM by the last line of its log.
func (m *Manager) died(id string, end *keeper.End) error {
	return fmt.Errorf("the VMM ended (%s): %s", end.How(), m.LastLog(id))
}
