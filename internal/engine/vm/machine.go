package vm

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/cocoonv2/cocoon/chsnap"
	"github.com/cocoonv2/cocoon/internal/base/durable"
)

// A VM made from files boots with arguments, which are in its record. One rebuilt
// from a snapshot boots as the machine that was saved, of which the other fields
// of the record hold little: the VMM's own configuration, without what belongs to
// one process (chsnap.Config.Machine), is in the record and goes to the VMM over
// its API, with this VM's files in it. So the same code rewrites it as in a warm
// restore. Records of earlier versions have none: those VMs boot with arguments.

// launchCold starts the VMM of a VM that boots from its disks.
func (m *Manager) launchCold(ctx context.Context, rec *Record) (*Process, error) {
	if len(rec.Machine) == 0 {
		if err := needHugePages(rec.hardware().hugePages(rec.MemoryBytes)); err != nil {
			return nil, err
		}
		return m.Launch(ctx, rec, m.ColdBootArgs(ctx, rec))
	}
	config, err := m.coldBootConfig(ctx, rec)
	if err == nil {
		err = needHugePages(config.HugePages())
	}
	if err != nil {
		return nil, err
	}
	var a chsnap.Args
	a.Operator(processArgs(rec.ExtraArgs)...)
	p, err := m.Launch(ctx, rec, a)
	if err != nil {
		return nil, err
	}
	if err := m.bootMachine(ctx, rec, p, config); err != nil {
		return nil, errors.Join(err, m.Kill(context.WithoutCancel(ctx), rec.ID))
	}
	return p, nil
}

func (m *Manager) bootMachine(ctx context.Context, rec *Record, p *Process, config *chsnap.Config) error {
	client := chsnap.NewClient(p.APISocket, m.o.Patience)
	if err := client.Create(ctx, config); err != nil {
		return err
	}
	durable.Step("vm.configured")
	return client.Boot(ctx, config.MemoryBytes())
}

// coldBootConfig is the machine with the files and interfaces that this VM has now.
func (m *Manager) coldBootConfig(ctx context.Context, rec *Record) (*chsnap.Config, error) {
	config, err := chsnap.ParseConfig(rec.Machine)
	if err != nil {
		return nil, fmt.Errorf("machine of VM %s: %w", rec.Name, err)
	}
	boot := chsnap.Boot{Rewrite: m.Rewriting(ctx, rec), Links: map[string]chsnap.Link{}}
	if boot.Cmdline, err = rec.commandLine(); err != nil {
		return nil, err
	}
	for _, n := range rec.Networks {
		boot.Links[n.ID] = chsnap.Link{MAC: n.Inside().MAC, MTU: n.MTU}
	}
	if err := config.Boot(boot); err != nil {
		return nil, fmt.Errorf("machine of VM %s: %w", rec.Name, err)
	}
	return config, nil
}

// ofTheProcess are the arguments that concern the VMM process rather than its VM;
// true for those with a value.
var ofTheProcess = map[string]bool{
	"--log-file": true, "--log-format": true, "--event-monitor": true, "--seccomp": true, "--gdb": true,
	"--dbus-service-name": true, "--dbus-object-path": true, "--dbus-system-bus": false, "--no-shutdown": false,
	"-v": false, "-vv": false, "-vvv": false,
}

// processArgs are those of a VM's own arguments that are not in its machine.
func processArgs(args []string) (out []string) {
	for i, a := range args {
		name, _, joined := strings.Cut(a, "=")
		valued, ours := ofTheProcess[name]
		if !ours {
			continue
		}
		out = append(out, a)
		if valued && !joined && i+1 < len(args) {
			out = append(out, args[i+1])
		}
	}
	return slices.Clip(out)
}
