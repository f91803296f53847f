package demo

import (
	"context"
	"fmt"
	"strings"

	"github.com/cocoonv2/cocoon/internal/base/guest"
)

// play is the story itself, one function per act.
func (d *Demo) play(ctx context.Context) error {
	for _, act := range []func(context.Context) error{d.start, d.save, d.forget, d.rebuild, d.clones, d.collect} {
		if err := act(ctx); err != nil {
			return err
		}
	}
	d.say("Done: everything held.")
	return nil
}

func (d *Demo) start(ctx context.Context) error {
	d.say("A VM with 256 MiB of RAM and a disk. Its guest counts in RAM and on the disk, and verifies its RAM for ever.")
	_, err := d.show(ctx, "vm", "create", "web", "--kernel", d.path("guest.elf"), "--memory", "256M", "--disk", d.path("disk.raw"), "--start")
	if err != nil {
		return err
	}
	ram, disk, err := d.ticks(ctx, "web", 10)
	if err != nil {
		return err
	}
	fmt.Fprintf(d.Out, "the guest counts: RAM %d, disk %d\n", ram, disk)
	return nil
}

func (d *Demo) save(ctx context.Context) error {
	d.say("Two snapshots while it runs. The second stores only the pages that changed.")
	if _, err := d.show(ctx, "snapshot", "create", "web", "first", "--stats"); err != nil {
		return err
	}
	ram, _, err := d.ticks(ctx, "web", 0)
	if err != nil {
		return err
	}
	if _, _, err := d.ticks(ctx, "web", ram+5); err != nil {
		return err
	}
	if _, err := d.show(ctx, "snapshot", "create", "web", "second", "--stats"); err != nil {
		return err
	}
	_, err = d.show(ctx, "snapshot", "list")
	return err
}

func (d *Demo) forget(ctx context.Context) error {
	d.say("The VM goes, with its disks. The snapshots stay.")
	if _, err := d.show(ctx, "vm", "rm", "--force", "web"); err != nil {
		return err
	}
	_, err := d.show(ctx, "vm", "list")
	return err
}

// rebuild proves continuity: the first counter that the new VM prints follows
// the one at which it was saved, and RAM and disk agree.
func (d *Demo) rebuild(ctx context.Context) error {
	d.say("A fresh VM from the first snapshot: RAM and disk go on exactly where they were.")
	if _, err := d.show(ctx, "vm", "create", "again", "--from-snapshot", "first"); err != nil {
		return err
	}
	ram, disk, err := d.ticks(ctx, "again", 0)
	if err != nil {
		return err
	}
	log, err := d.quiet(ctx, "vm", "logs", "again")
	if err != nil {
		return err
	}
	for _, line := range strings.Split(log, "\n") {
		if strings.HasPrefix(line, "BOOT") {
			return fmt.Errorf("the rebuilt VM booted instead of going on")
		}
		if first, _, ok := guest.ParseTick(line); ok {
			fmt.Fprintf(d.Out, "the guest did not boot: its first counter is %d, now RAM %d, disk %d, no BAD line\n", first, ram, disk)
			break
		}
	}
	if ram != disk {
		return fmt.Errorf("RAM says %d, disk says %d", ram, disk)
	}
	return nil
}

func (d *Demo) clones(ctx context.Context) error {
	d.say("Three clones of the second snapshot, side by side.")
	if _, err := d.show(ctx, "vm", "create", "clone", "--from-snapshot", "second", "--count", "3"); err != nil {
		return err
	}
	for i := 1; i <= 3; i++ {
		if _, _, err := d.ticks(ctx, fmt.Sprintf("clone-%d", i), 0); err != nil {
			return err
		}
	}
	_, err := d.show(ctx, "vm", "list")
	return err
}

func (d *Demo) collect(ctx context.Context) error {
	d.say("The VMs and the first snapshot go; gc frees what nothing names any more, and says why.")
	if _, err := d.show(ctx, "vm", "rm", "--force", "again", "clone-1", "clone-2", "clone-3"); err != nil {
		return err
	}
	if _, err := d.show(ctx, "snapshot", "rm", "first"); err != nil {
		return err
	}
	if _, err := d.show(ctx, "gc", "--dry-run", "--explain"); err != nil {
		return err
	}
	if _, err := d.show(ctx, "gc"); err != nil {
		return err
	}
	d.say("What is left is whole.")
	_, err := d.show(ctx, "snapshot", "verify", "--all", "--read-data")
	return err
}
