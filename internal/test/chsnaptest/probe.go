package chsnaptest

import (
	"context"
	"fmt"
	"os"
	"path/filepath"

	"github.com/cocoonv2/cocoon/internal/base/hostfacts"
)

// Probe says whether binary can boot kernel and take a snapshot of it here: nil,
// or the first thing that went wrong. It costs one VM of 128 MiB for an instant
// and leaves nothing behind. ctx bounds it; a VMM that hangs is killed.
func Probe(ctx context.Context, binary, kernel string) error {
	dir, err := os.MkdirTemp(scratchRoot(), "cocoon-probe-")
	if err != nil {
		return fmt.Errorf("making a folder to probe the VMM in: %w", err)
	}
	defer os.RemoveAll(dir)
	serial := console{filepath.Join(dir, "serial")}
	p, err := start(ctx, binary, dir, "probe", bootArgs(kernel, serial.path)...)
	if err != nil {
		return fmt.Errorf("probing %s: %w", binary, err)
	}
	defer p.kill()
	if err := probeSnapshot(ctx, p, serial, filepath.Join(dir, "snapshot")); err != nil {
		return fmt.Errorf("probing %s: %w", binary, err)
	}
	return nil
}

func probeSnapshot(ctx context.Context, p *process, serial console, dir string) error {
	if _, err := serial.wait(ctx, p, 1); err != nil {
		return err
	}
	if err := os.Mkdir(dir, 0o700); err != nil {
		return fmt.Errorf("making the snapshot folder: %w", err)
	}
	if err := p.put(ctx, "vm.pause", nil); err != nil {
		return err
	}
	if err := p.put(ctx, "vm.snapshot", fileURL(dir)); err != nil {
		return err
	}
	return p.put(ctx, "vm.resume", nil)
}

// guestBytes is the RAM of every guest of the suite: enough for the pattern of
// the test guest.
const guestBytes = 128 << 20

// bootArgs starts a guest of guestBytes. nested=off because some hosts cannot
// save nested virtualisation state.
func bootArgs(kernel, serial string) []string {
	return []string{
		"--kernel", kernel, "--cpus", "boot=1,nested=off", "--memory", fmt.Sprintf("size=%d", guestBytes),
		"--serial", "file=" + serial, "--console", "off",
	}
}

// scratchRoot is a folder for RAM-sized files: tmpfs when there is room for
// several guests, else the usual place for temporary files ("").
func scratchRoot() string {
	const shm = "/dev/shm"
	if free, _, err := hostfacts.FreeBytes(shm); err == nil && free >= 16*guestBytes {
		return shm
	}
	return ""
}
