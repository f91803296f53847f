package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/cocoonv2/cocoon/chsnap"
	"github.com/cocoonv2/cocoon/internal/base/patience"
)

// restoreSection: how long a rebuilt guest takes to run, whole commands, by
// size of its RAM, beside the VMM's own copy restore of the same snapshot: both
// with what they read in the page cache, and both with nothing of it there.
func restoreSection(ctx context.Context, b *bench) error {
	b.env = append(b.env, "COCOON_CACHE_AHEAD=off") // it would be measured as well
	fmt.Println("\n## A rebuilt guest runs")
	fmt.Println("\n| guest | vm.restore by hand, raw file read from the disk | stream, packs read from the disk | ratio | by hand, raw file on tmpfs | stream, packs in the page cache | ratio | map, nothing cached | map, cached | `--count 10`, cached | private memory of a mapped clone |")
	fmt.Println("|---|---|---|---|---|---|---|---|---|---|---|")
	for i, size := range b.sizes {
		if err := b.restoreRow(ctx, fmt.Sprint("restore", i), size); err != nil {
			return err
		}
	}
	return nil
}

func (b *bench) restoreRow(ctx context.Context, name, size string) error {
	folder, err := b.saved(ctx, name, size)
	if err != nil {
		return err
	}
	defer os.RemoveAll(folder)
	onDisk := filepath.Join(b.work, "by-hand")
	if err := os.CopyFS(onDisk, os.DirFS(folder)); err != nil {
		return err
	}
	defer os.RemoveAll(onDisk)
	blobs := filepath.Join(b.work, "root", "blobs")
	private := int64(0)
	byHand := func(folder string) func() (time.Duration, error) {
		return func() (time.Duration, error) { return b.restoreByHand(ctx, folder) }
	}
	clones := func(mode string, count int) func() (time.Duration, error) {
		return func() (time.Duration, error) {
			took, dirty, err := b.clones(ctx, name, mode, count)
			if mode == "map" {
				private = max(private, dirty)
			}
			return took, err
		}
	}
	var handFromDisk, streamFromDisk, hand, stream, cold, warm, ten []time.Duration
	for range b.runs {
		for _, way := range []struct {
			took *[]time.Duration
			cold string // folder that is dropped from the page cache before
			run  func() (time.Duration, error)
		}{
			{&handFromDisk, onDisk, byHand(onDisk)},
			{&hand, "", byHand(folder)},
			{&streamFromDisk, blobs, clones("stream", 0)},
			{&stream, "", clones("stream", 0)},
			{&cold, "", clones("map", 0)},
			{&warm, "", clones("map", 0)},
			{&ten, "", clones("map", 10)},
		} {
			if err := uncache(way.cold); err != nil {
				return err
			}
			took, err := way.run()
			if err != nil {
				return err
			}
			*way.took = append(*way.took, took)
		}
		if _, err := b.run(ctx, "gc", "--cache-max-bytes", "0"); err != nil {
			return err
		}
	}
	faster := func(a, b []time.Duration) float64 { return float64(median(a)) / float64(median(b)) }
	fmt.Printf("| %s | %s | **%s** | %.1f× faster | %s | %s | %.1f× faster | %s | **%s** | **%s** | %.1f MiB |\n", size,
		ms(handFromDisk), ms(streamFromDisk), faster(handFromDisk, streamFromDisk), ms(hand), ms(stream), faster(hand, stream),
		ms(cold), ms(warm), ms(ten), float64(private)/(1<<20))
	_, err = b.run(ctx, "snapshot", "rm", name)
	return err
}

// uncache writes the files of a folder out and drops them from the page cache;
// "" is none.
func uncache(dir string) error {
	if dir == "" {
		return nil
	}
	return filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || !d.Type().IsRegular() {
			return err
		}
		f, err := os.Open(path)
		if err != nil {
			return err
		}
		defer f.Close()
		return errors.Join(f.Sync(), unix.Fadvise(int(f.Fd()), 0, 0, unix.FADV_DONTNEED))
	})
}

// saved leaves a snapshot of a guest of this size, which is gone, and the
// snapshot as a folder of the VMM's own format on tmpfs.
func (b *bench) saved(ctx context.Context, name, size string) (string, error) {
	disk := filepath.Join(b.work, name+".raw")
	if err := os.WriteFile(disk, make([]byte, 16<<20), 0o600); err != nil {
		return "", err
	}
	if _, err := b.boot(ctx, name, size, disk, ""); err != nil {
		return "", err
	}
	dir, err := os.MkdirTemp("/dev/shm", "cb")
	if err != nil {
		return "", err
	}
	for _, args := range [][]string{
		{"snapshot", "create", name, name},
		{"vm", "rm", "-f", name},
		{"snapshot", "export", name, "-o", filepath.Join(dir, "snap"), "--format", "ch"},
	} {
		if _, err := b.run(ctx, args...); err != nil {
			return "", errors.Join(err, os.RemoveAll(dir))
		}
	}
	return dir, nil
}

// restoreByHand starts a VMM and has it read the folder: until the guest runs.
func (b *bench) restoreByHand(ctx context.Context, folder string) (time.Duration, error) {
	socket := filepath.Join(folder, "s")
	c := exec.CommandContext(ctx, b.vmm, "--api-socket", "path="+socket)
	start := time.Now()
	if err := c.Start(); err != nil {
		return 0, err
	}
	defer func() { _, _ = c.Process.Kill(), c.Wait() }()
	client := chsnap.NewClient(socket, patience.Patience(5*time.Minute))
	for deadline := start.Add(time.Minute); ; time.Sleep(time.Millisecond) {
		_, err := client.Ping(ctx)
		if err == nil {
			break
		}
		if time.Now().After(deadline) {
			return 0, err
		}
	}
	err := client.Restore(ctx, chsnap.RestoreConfig{SourceURL: "file://" + filepath.Join(folder, "snap"), Resume: true}, 0)
	return time.Since(start), errors.Join(err, os.Remove(socket))
}

// clones times one vm create, with --count above 0, has every guest count, and
// removes them. dirty is the private memory of the first VMM when the command
// ended. more are flags of vm create.
func (b *bench) clones(ctx context.Context, snapshot, mode string, count int, more ...string) (took time.Duration, dirty int64, err error) {
	args := append([]string{"vm", "create", "clone", "--from-snapshot", snapshot, "--restore-mode", mode}, more...)
	if count > 0 {
		args = append(args, "--count", strconv.Itoa(count))
	}
	out, err := b.run(ctx, args...)
	if err != nil {
		return 0, 0, err
	}
	ids := strings.Fields(out.text)
	for i, id := range ids {
		m, pid, err := b.machine(ctx, id)
		if err == nil && i == 0 {
			dirty, err = privateBytes(pid)
		}
		if err = errors.Join(err, m.counts(ctx)); err != nil {
			return 0, 0, err
		}
	}
	_, err = b.run(ctx, append([]string{"vm", "rm", "-f"}, ids...)...)
	return out.wall, dirty, err
}

// machine finds a running VM and its VMM.
func (b *bench) machine(ctx context.Context, id string) (*machine, int, error) {
	out, err := b.run(ctx, "vm", "inspect", id)
	if err != nil {
		return &machine{name: id}, 0, err
	}
	var rows []struct {
		APISocket string
		PID       int
	}
	if err := json.Unmarshal([]byte(out.text), &rows); err != nil || len(rows) != 1 {
		return &machine{name: id}, 0, fmt.Errorf("inspect %s: %w, %d rows", id, err, len(rows))
	}
	return &machine{name: id, serial: filepath.Join(filepath.Dir(rows[0].APISocket), "serial.log")}, rows[0].PID, nil
}

// privateBytes is what of a process's memory is written and its own.
func privateBytes(pid int) (int64, error) {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/smaps_rollup", pid))
	if err != nil {
		return 0, err
	}
	for line := range strings.Lines(string(b)) {
		if f := strings.Fields(line); len(f) == 3 && f[0] == "Private_Dirty:" {
			kib, err := strconv.ParseInt(f[1], 10, 64)
			return kib << 10, err
		}
	}
	return 0, errors.New("smaps_rollup has no Private_Dirty")
}
