package main

import (
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"time"

	"golang.org/x/sys/unix"
)

// stall runs do and answers the longest time within it (and a moment after) in
// which the guest printed nothing: the pause as the guest's users see it, plus
// the normal time between two ticks.
func (m *machine) stall(do func() error) (time.Duration, error) {
	stop, result := make(chan struct{}), make(chan time.Duration)
	go func() { result <- longestGap(m.serial, stop) }()
	err := do()
	time.Sleep(300 * time.Millisecond)
	close(stop)
	return <-result, err
}

// longestGap polls the size of a file until stop is closed.
func longestGap(path string, stop <-chan struct{}) (longest time.Duration) {
	var st unix.Stat_t
	size, last := int64(-1), time.Now()
	for {
		select {
		case <-stop:
			return max(longest, time.Since(last))
		default:
		}
		now := time.Now()
		if unix.Stat(path, &st) == nil && st.Size != size {
			if size >= 0 {
				longest = max(longest, now.Sub(last))
			}
			size, last = st.Size, now
		}
		time.Sleep(500 * time.Microsecond)
	}
}

// idle is the longest gap when nothing is done to the guest.
func (m *machine) idle() (time.Duration, error) {
	return m.stall(func() error { time.Sleep(time.Second); return nil })
}

// byHand saves a guest as an operator would without cocoon: pause, vm.snapshot
// to tmpfs, copy the disk by reflink where the file system can, resume.
func (b *bench) byHand(ctx context.Context, m *machine) (err error) {
	dir, err := os.MkdirTemp("/dev/shm", "cocoon-benchvmm-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	copied := filepath.Join(b.work, "by-hand.raw")
	defer os.Remove(copied)
	if err := m.client.Pause(ctx); err != nil {
		return err
	}
	defer func() {
		if rerr := m.client.Resume(ctx); err == nil {
			err = rerr
		}
	}()
	if err := m.client.Snapshot(ctx, dir, uint64(m.ram)); err != nil {
		return err
	}
	if m.disk == "" {
		return nil
	}
	return exec.CommandContext(ctx, "cp", "--reflink=auto", m.disk, copied).Run()
}

// median of durations; 0 of none.
func median(all []time.Duration) time.Duration {
	if len(all) == 0 {
		return 0
	}
	sorted := slices.Sorted(slices.Values(all))
	return sorted[len(sorted)/2]
}
