package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/cocoonv2/cocoon/chsnap"
	"github.com/cocoonv2/cocoon/internal/base/guest"
)

// prepare makes the store's place, the kernel and the settings.
func (b *bench) prepare() error {
	run, err := os.MkdirTemp("/run", "cb") // a tmpfs, as by default, and short: socket paths end at 108 bytes
	if err != nil {
		return err
	}
	b.env = append(os.Environ(), "COCOON_ROOT_DIR="+filepath.Join(b.work, "root"), "COCOON_RUN_DIR="+run,
		"COCOON_HYPERVISOR="+b.vmm, "COCOON_CPU_ARGS=nested=off")
	return guest.WriteFile(filepath.Join(b.work, "guest.elf"))
}

// clean ends every VM and removes what was made.
func (b *bench) clean() error {
	ctx := context.Background()
	var errs []error
	if b.env != nil {
		out, err := b.run(ctx, "vm", "list", "-q")
		errs = append(errs, err)
		for _, id := range strings.Fields(out.text) {
			_, err := b.run(ctx, "vm", "rm", "-f", id)
			errs = append(errs, err)
		}
		for _, e := range b.env {
			if dir, ok := strings.CutPrefix(e, "COCOON_RUN_DIR="); ok && dir != os.Getenv("COCOON_RUN_DIR") {
				errs = append(errs, os.RemoveAll(dir))
			}
		}
	}
	return errors.Join(append(errs, os.RemoveAll(b.work))...)
}

// output of a command and what it cost.
type output struct {
	text string
	wall time.Duration
	peak int64 // largest resident set, bytes
}

func (b *bench) run(ctx context.Context, args ...string) (output, error) {
	c := exec.CommandContext(ctx, b.cocoon, args...)
	var out, stderr bytes.Buffer
	c.Env, c.Stdout, c.Stderr = b.env, &out, &stderr
	start := time.Now()
	err := c.Run()
	o := output{text: strings.TrimSpace(out.String()), wall: time.Since(start)}
	if c.ProcessState != nil {
		o.peak = c.ProcessState.SysUsage().(*syscall.Rusage).Maxrss << 10
	}
	if err != nil {
		return o, fmt.Errorf("cocoon %s: %w: %s", strings.Join(args, " "), err, strings.TrimSpace(stderr.String()))
	}
	return o, nil
}

// machine is a running guest.
type machine struct {
	name, serial string
	disk         string // its writable disk, "" without one
	ram          int64
	client       *chsnap.Client
}

// boot starts a guest of size RAM, nearly all of it filled, and waits until it
// counts. disk may be ""; more are flags of vm create.
func (b *bench) boot(ctx context.Context, name, size, disk, cmdline string, more ...string) (*machine, error) {
	mib, err := mebibytes(size)
	if err != nil {
		return nil, err
	}
	args := append([]string{
		"vm", "create", name, "--kernel", filepath.Join(b.work, "guest.elf"), "--memory", size, "--start",
		"--cmdline", strings.TrimSpace(fmt.Sprintf("fill=%d %s", mib-32, cmdline)),
	}, more...)
	if disk != "" {
		args = append(args, "--disk", disk)
	}
	if _, err := b.run(ctx, args...); err != nil {
		return nil, err
	}
	out, err := b.run(ctx, "vm", "inspect", name)
	if err != nil {
		return nil, err
	}
	var rows []struct{ ID, APISocket string }
	if err := json.Unmarshal([]byte(out.text), &rows); err != nil || len(rows) != 1 {
		return nil, fmt.Errorf("inspect %s: %w, %d rows", name, err, len(rows))
	}
	m := &machine{name: name, ram: mib << 20, client: chsnap.NewClient(rows[0].APISocket, 0)}
	m.serial = filepath.Join(filepath.Dir(rows[0].APISocket), "serial.log")
	if disk != "" {
		m.disk = filepath.Join(b.work, "root", "vms", rows[0].ID, "disk-0.raw")
	}
	return m, m.counts(ctx)
}

// counts waits until the guest has printed some ticks.
func (m *machine) counts(ctx context.Context) error {
	for deadline := time.Now().Add(5 * time.Minute); time.Now().Before(deadline) && ctx.Err() == nil; time.Sleep(50 * time.Millisecond) {
		log, err := os.ReadFile(m.serial)
		if err != nil {
			return err
		}
		if bad := guest.Bad(log); len(bad) > 0 {
			return fmt.Errorf("guest %s says %s", m.name, bad[0])
		}
		if n, _, ok := guest.LastTick(log); ok && n > 20 {
			return nil
		}
	}
	return errors.Join(ctx.Err(), fmt.Errorf("guest %s does not count", m.name))
}

// pauseOf is capture.pauseMs of a snapshot.
func (b *bench) pauseOf(ctx context.Context, id string) (float64, error) {
	out, err := b.run(ctx, "snapshot", "inspect", id)
	if err != nil {
		return 0, err
	}
	var rows []struct{ Capture struct{ PauseMs float64 } }
	if err := json.Unmarshal([]byte(out.text), &rows); err != nil || len(rows) != 1 {
		return 0, fmt.Errorf("inspect %s: %w, %d rows", id, err, len(rows))
	}
	return rows[0].Capture.PauseMs, nil
}

// mebibytes reads 128M or 4G.
func mebibytes(size string) (int64, error) {
	n, err := strconv.ParseInt(strings.TrimRight(size, "MG"), 10, 64)
	if err != nil {
		return 0, fmt.Errorf("size %q: %w", size, err)
	}
	if strings.HasSuffix(size, "G") {
		n <<= 10
	}
	return n, nil
}
