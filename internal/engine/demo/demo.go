// Package demo shows cocoon's whole job, by running the same commands that a user
// could type, in temporary folders.
//
// It proves its claims: the tiny guest counts in RAM and on its disk at once,
// keeps verifying its RAM and prints both counters, so a rebuilt VM either
// continues from the exact number at which it was saved or prints BAD.
package demo

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/cocoonv2/cocoon/internal/base/guest"
)

// Demo runs the program Self again and again.
type Demo struct {
	Self      string // this program
	VMM       string // Cloud Hypervisor to try first
	Simulator string // used if the real one is not usable
	CPUArgs   string
	Out       io.Writer
	// Guard starts a process that calls Clear for a folder if this one dies before
	// it calls release; nil: none.
	Guard func(dir string) (release func(), err error)

	dir string // scratch folder of this run
	vmm string // chosen
}

// tickTimeout is how long a guest may take to print its next counter. KVM on a
// shared machine can be very slow; the demo itself takes a few seconds.
const tickTimeout = 10 * time.Minute

// Run plays the demo and cleans up. An error means that something did not hold.
func (d *Demo) Run(ctx context.Context) (err error) {
	if d.dir, err = os.MkdirTemp("", "cocoon-demo-"); err != nil {
		return err
	}
	if d.Guard != nil {
		release, err := d.Guard(d.dir)
		if err != nil {
			return errors.Join(err, os.RemoveAll(d.dir))
		}
		defer release()
	}
	defer func() { err = errors.Join(err, d.clean()) }()
	if err := d.files(); err != nil {
		return err
	}
	if err := d.choose(ctx); err != nil {
		return err
	}
	return d.play(ctx)
}

func (d *Demo) files() error {
	if err := guest.WriteFile(d.path("guest.elf")); err != nil {
		return err
	}
	f, err := os.Create(d.path("disk.raw"))
	if err != nil {
		return err
	}
	defer f.Close()
	return f.Truncate(64 << 20)
}

func (d *Demo) path(name string) string { return filepath.Join(d.dir, name) }

// choose probes the real VMM with one boot and one snapshot of the tiny guest
// and says which one is used, and why.
func (d *Demo) choose(ctx context.Context) error {
	why := d.probe(ctx, d.VMM)
	if why == nil {
		d.vmm = d.VMM
		version, _ := exec.CommandContext(ctx, d.VMM, "--version").Output()
		first, _, _ := strings.Cut(string(version), "\n")
		fmt.Fprintf(d.Out, "VMM: real %s (one boot and one snapshot of the tiny guest worked)\n", first)
		return nil
	}
	if _, err := os.Stat(d.Simulator); err != nil {
		return fmt.Errorf("no usable Cloud Hypervisor (%w) and no simulator: %w", why, err)
	}
	d.vmm = d.Simulator
	fmt.Fprintf(d.Out, "VMM: the in-tree simulator, because the real one is not usable: %s\n", strings.ReplaceAll(why.Error(), "\n", "; "))
	return nil
}

func (d *Demo) probe(ctx context.Context, vmm string) error {
	if _, err := exec.LookPath(vmm); err != nil {
		return err
	}
	if f, err := os.OpenFile("/dev/kvm", os.O_RDWR, 0); err != nil {
		return err
	} else {
		f.Close()
	}
	d.vmm = vmm
	defer os.RemoveAll(d.path("root"))
	defer d.quiet(context.WithoutCancel(ctx), "vm", "rm", "--force", "probe")
	for _, args := range [][]string{
		{"vm", "create", "probe", "--kernel", d.path("guest.elf"), "--memory", "128M", "--start"},
		{"snapshot", "create", "probe"},
	} {
		if _, err := d.quiet(ctx, args...); err != nil {
			return err
		}
	}
	return nil
}

// command prepares one call of cocoon on the demo's own folders.
func (d *Demo) command(ctx context.Context, args ...string) *exec.Cmd {
	c := exec.CommandContext(ctx, d.Self, append([]string{"--root-dir", d.path("root"), "--run-dir", d.path("run"), "--hypervisor", d.vmm}, args...)...)
	c.Env = append(os.Environ(), "COCOON_CPU_ARGS="+d.CPUArgs, "COCOON_CACHE_AHEAD=off")
	c.Cancel = func() error { return c.Process.Signal(syscall.SIGTERM) } // it undoes what it began
	return c
}

// quiet runs a command and returns its trimmed stdout.
func (d *Demo) quiet(ctx context.Context, args ...string) (string, error) {
	var out, errOut bytes.Buffer
	c := d.command(ctx, args...)
	c.Stdout, c.Stderr = &out, &errOut
	if err := c.Run(); err != nil {
		return "", fmt.Errorf("cocoon %s: %w: %s", strings.Join(args, " "), err, strings.TrimSpace(errOut.String()))
	}
	return strings.TrimSpace(out.String()), nil
}

// show prints a command as a user would type it, runs it and prints its output,
// with the time it took.
func (d *Demo) show(ctx context.Context, args ...string) (string, error) {
	fmt.Fprintf(d.Out, "\n$ cocoon %s\n", strings.ReplaceAll(strings.Join(args, " "), d.dir+"/", ""))
	start := time.Now()
	var out bytes.Buffer
	c := d.command(ctx, args...)
	c.Stdout, c.Stderr = io.MultiWriter(d.Out, &out), d.Out
	if err := c.Run(); err != nil {
		return "", fmt.Errorf("cocoon %s: %w", strings.Join(args, " "), err)
	}
	fmt.Fprintf(d.Out, "  (%d ms)\n", time.Since(start).Milliseconds())
	return strings.TrimSpace(out.String()), nil
}

func (d *Demo) say(format string, args ...any) { fmt.Fprintf(d.Out, "\n# "+format+"\n", args...) }

// ticks waits until the guest has printed a counter above past, and fails on
// any BAD line.
func (d *Demo) ticks(ctx context.Context, vm string, past uint32) (ram, disk uint32, err error) {
	deadline := time.Now().Add(tickTimeout)
	for {
		log, err := d.quiet(ctx, "vm", "logs", vm)
		if err == nil {
			if bad := guest.Bad([]byte(log)); len(bad) > 0 {
				return 0, 0, fmt.Errorf("guest %s found its memory or disk wrong: %s", vm, bad[0])
			}
			if ram, disk, ok := guest.LastTick([]byte(log + "\n")); ok && ram > past {
				return ram, disk, nil
			}
		}
		if time.Now().After(deadline) {
			return 0, 0, fmt.Errorf("guest %s did not count past %d within %s (last: %v)", vm, past, tickTimeout, err)
		}
		select {
		case <-ctx.Done():
			return 0, 0, ctx.Err()
		case <-time.After(20 * time.Millisecond):
		}
	}
}

// Clear removes what a dead demo left in its folder, and ends its VMs. It first
// waits for a command that was just started.
func (d *Demo) Clear(dir string) error {
	d.dir, d.vmm = dir, d.VMM // which ends VMs, whichever started them
	for end := time.Now().Add(tickTimeout); d.commandRuns() && time.Now().Before(end); {
		time.Sleep(20 * time.Millisecond)
	}
	return d.clean()
}

// commandRuns reports whether a command of ours works on the demo's folders.
func (d *Demo) commandRuns() bool {
	lines, _ := filepath.Glob("/proc/[0-9]*/cmdline")
	for _, path := range lines {
		line, _ := os.ReadFile(path)
		if bytes.HasPrefix(line, []byte(d.Self+"\x00--root-dir\x00"+d.path("root")+"\x00")) {
			return true
		}
	}
	return false
}

func (d *Demo) clean() error {
	ctx := context.Background()
	ids, err := d.quiet(ctx, "vm", "list", "-q")
	if err == nil && ids != "" {
		_, err = d.quiet(ctx, append([]string{"vm", "rm", "--force"}, strings.Fields(ids)...)...)
	}
	if err != nil {
		return fmt.Errorf("%w; %s is left", err, d.dir)
	}
	return os.RemoveAll(d.dir)
}
