// Command outside is a program of somebody else that uses cocoon by its front door
// alone. TestAProgramOfSomebodyElse builds and runs it.
//
//	outside tour       does the whole job with a VM called web
//	outside save       saves web, which is there, and stands it still meanwhile
//
// The folders, the VMM and the cocoon binary are those of the environment.
package main

import (
	"context"
	"errors"
	"fmt"
	"os"

	"github.com/cocoonv2/cocoon"
	"github.com/cocoonv2/cocoon/gc/policy"
)

func main() {
	if err := run(context.Background(), os.Args[1]); err != nil {
		fmt.Fprintf(os.Stderr, "outside: %+v\n", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, verb string) error {
	host, err := cocoon.Open(ctx, cocoon.Options{Create: true})
	if err != nil {
		return err
	}
	switch verb {
	case "tour":
		return tour(ctx, host)
	case "save":
		_, err := host.Save(ctx, "web", cocoon.SaveOptions{Mode: "file"})
		return err
	}
	return errors.New("outside tour or outside save")
}

// tour makes every kind of call once. web runs afterwards.
func tour(ctx context.Context, host *cocoon.Host) error {
	web := cocoon.VM{Name: "web", MemoryBytes: 64 << 20, Kernel: "guest.elf", Disks: []string{"disk.raw"}}
	if _, err := host.Create(ctx, web); err != nil {
		return err
	}
	var h cocoon.Hypervisor = host
	for _, step := range []func() error{
		func() error { return h.Snapshot(ctx, "web", "first") },
		func() error { return host.Check(ctx, "first") },
		func() error { _, err := h.Restore(ctx, "first", "again"); return err },
		func() error {
			_, err := host.Clone(ctx, "first", []string{"c1", "c2"}, cocoon.RestoreOptions{})
			return err
		},
		func() error { return host.Suspend(ctx, "again") },
		func() error { return host.Wake(ctx, "again", cocoon.RestoreOptions{}) },
		func() error {
			_, err := host.RestoreInPlace(ctx, "web", "first", cocoon.RestoreOptions{})
			return err
		},
		func() error { return stop(ctx, host, "again", "c1", "c2") },
		func() error { _, err := host.Prune(ctx, policy.Rules{Last: 1}, true); return err },
		func() error { return host.Export(ctx, "first", "first.tar") },
		func() error { return host.Remove(ctx, "first") },
		func() error { _, err := host.Collect(ctx, false); return err },
		func() error { _, err := host.Verify(ctx, true); return err },
		func() error { _, err := host.Repair(ctx); return err },
		func() error { return images(ctx, host) },
	} {
		if err := step(); err != nil {
			return err
		}
	}
	if _, err := host.Inspect(ctx, "first"); !errors.Is(err, cocoon.NotFound) {
		return fmt.Errorf("first was removed, and asking for it says %v", err)
	}
	back, err := host.Import(ctx, "first.tar", "back")
	if err != nil {
		return err
	}
	if err := host.Remove(ctx, back.ID); err != nil {
		return err
	}
	vms, err := host.VMs(ctx)
	if err != nil {
		return err
	}
	for _, vm := range vms {
		fmt.Println(vm.Name, vm.State)
	}
	return nil
}

// images takes one in, keeps it, and lets it go.
func images(ctx context.Context, host *cocoon.Host) error {
	digest, err := host.ImportImage(ctx, "disk.raw", "base")
	if err != nil {
		return err
	}
	return errors.Join(host.PinImage(ctx, digest), host.UnpinImage(ctx, "base"), host.RemoveImage(ctx, "base"))
}

func stop(ctx context.Context, host *cocoon.Host, vms ...string) error {
	for _, vm := range vms {
		if err := errors.Join(host.Stop(ctx, vm), host.RemoveVM(ctx, vm)); err != nil {
			return err
		}
	}
	return nil
}
