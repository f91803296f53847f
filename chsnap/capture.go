package chsnap

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"
	"time"

	"github.com/cocoonv2/cocoon/internal/base/durable"
	"github.com/cocoonv2/cocoon/internal/base/failure"
	"github.com/cocoonv2/cocoon/internal/base/hostfacts"
	"github.com/cocoonv2/cocoon/internal/base/patience"
)

// CaptureOptions of Capture.
type CaptureOptions struct {
	Client     *Client
	StagingDir string // private, empty or to hold one subfolder
	// WhilePaused runs between vm.snapshot and vm.resume: the disks are cloned.
	WhilePaused func(ctx context.Context) error
	Guard       GuardCommand
	Owed        string // as in GuardOptions
}

// Captured is a saved VM in a staging folder that the caller removes.
type Captured struct {
	Dir *Dir
	// PauseMs is the longest the guest can have been paused. File mode: from the
	// call of vm.pause to the answer of vm.resume. Live: from when the guest was
	// last known to run until the VMM had resumed it.
	PauseMs float64
	Version Version // of the VMM
}

// minMajor is the oldest Cloud Hypervisor whose snapshots are sound.
const minMajor = 51

// Capture saves a VM in file mode. The VM runs again (or is paused, if it was
// found paused) when Capture returns, whatever happened.
func Capture(ctx context.Context, o CaptureOptions) (*Captured, error) {
	if o.Client == nil || o.StagingDir == "" {
		return nil, failure.New(failure.Usage, "a capture needs a Client and a StagingDir")
	}
	ping, err := o.Client.Ping(ctx)
	if err != nil {
		return nil, err
	}
	if m := Major(ping.Version); m < minMajor {
		return nil, failure.New(failure.Incompatible, "Cloud Hypervisor %s cannot be saved soundly, v%d is needed", ping.Version, minMajor)
	}
	info, err := o.Client.Info(ctx)
	if err != nil {
		return nil, err
	}
	if info.State != "Running" && info.State != "Paused" {
		return nil, failure.New(failure.Conflict, "the VM is %s", info.State)
	}
	if err := requireSpace(o.StagingDir, info.Config.MemoryBytes()); err != nil {
		return nil, err
	}
	wasRunning := info.State == "Running"
	guard := &Guard{} // a VM that was paused before needs none
	if wasRunning {
		guard, err = StartGuard(GuardOptions{Command: o.Guard, Client: o.Client, Staging: o.StagingDir, Owed: o.Owed, RAM: info.Config.MemoryBytes()})
	}
	if err == nil {
		err = guard.Arm(ctx)
	}
	var pauseMs float64
	if err == nil {
		pauseMs, err = save(ctx, o, info.Config.MemoryBytes(), wasRunning)
	}
	guard.Release()
	if err != nil {
		return nil, err
	}
	dir, err := ReadDir(o.StagingDir)
	if err != nil {
		return nil, fmt.Errorf("what the VMM wrote: %w", err)
	}
	if err := Normalise(dir.Config, dir.State); err != nil {
		return nil, err
	}
	return &Captured{Dir: dir, PauseMs: pauseMs, Version: ping.Is()}, nil
}

// save is the only place where a guest is paused.
func save(ctx context.Context, o CaptureOptions, ram uint64, wasRunning bool) (pauseMs float64, err error) {
	start := time.Now()
	busy := o.Client.patience.Call() // what the VMM may take before it hears us
	if wasRunning {
		// From the moment the pause is requested, the guest must be resumed: a
		// pause that timed out here may still be carried out by the VMM.
		defer func() {
			err = errors.Join(err, o.Client.EnsureRunning(context.WithoutCancel(ctx), busy))
			pauseMs = float64(time.Since(start).Microseconds()) / 1000
		}()
		if err := o.Client.Pause(ctx); err != nil {
			return 0, err
		}
	}
	durable.Step("capture.paused")
	busy = o.Client.patience.Moving(ram)
	if err := o.Client.Snapshot(ctx, o.StagingDir, ram); err != nil {
		return 0, err
	}
	durable.Step("capture.saved")
	if o.WhilePaused != nil {
		if err := o.WhilePaused(ctx); err != nil {
			return 0, err
		}
	}
	durable.Step("capture.disks")
	return 0, ctx.Err()
}

// EnsureRunning resumes the VM; a running one is fine. within limits what the VMM
// may still have to do first. A [StuckError] says that the guest stays paused
// whatever this program can do.
func (c *Client) EnsureRunning(ctx context.Context, within time.Duration) error {
	return c.ensure(ctx, "vm.resume", "Running", within)
}

// LetGo is EnsureRunning without knowledge of the VM: was is the state that the
// VMM last reported, "" if none. A VMM that is migrating reports Running.
func (c *Client) LetGo(ctx context.Context, within time.Duration) (was string, err error) {
	asking, cancel := patience.Bound(ctx, within)
	defer cancel()
	if info, err := c.Info(asking); err == nil {
		was = info.State
	}
	return was, c.EnsureRunning(asking, within)
}

// StuckError says that a living VMM could not be made to resume its guest: it
// does not answer, or it refuses every call.
type StuckError struct {
	Cause   error
	Answers bool // but does not do what it is told
}

func (e *StuckError) Error() string   { return e.Cause.Error() }
func (e *StuckError) Unwrap() []error { return []error{failure.Conflict, e.Cause} }

// ensure calls verb until the VM is in the resulting state. A VMM may be busy for
// a while, e.g. with a vm.snapshot that nobody waits for any more, or with a
// migration that has just failed.
func (c *Client) ensure(ctx context.Context, verb, state string, within time.Duration) error {
	ctx, cancel := patience.Bound(ctx, within)
	defer cancel()
	var last error
	for pause := time.Millisecond; ctx.Err() == nil; pause = min(2*pause, 10*time.Millisecond) {
		err := c.put(ctx, verb, nil)
		if err == nil {
			return nil
		}
		if last == nil || ctx.Err() == nil { // the last call ends with its time
			last = err
		}
		if !migrating(err) {
			if info, ierr := c.Info(ctx); ierr == nil && info.State == state {
				return nil
			}
			if errors.Is(err, errNobodyListens) {
				return err
			}
		}
		time.Sleep(pause)
	}
	return &StuckError{
		Cause:   fmt.Errorf("the VM could not be brought back to %s %s: %w", state, patience.Within(within), last),
		Answers: !errors.Is(last, ErrUnreachable),
	}
}

// stagingMargin is what a staging file system keeps free beside the RAM.
const stagingMargin = 64 << 20

func requireSpace(dir string, ram uint64) error {
	free, _, err := hostfacts.FreeBytes(dir)
	if err != nil {
		return err
	}
	if uint64(free) < ram+stagingMargin {
		return failure.New(failure.NoSpace, "%d bytes are free in %s, the RAM needs %d", free, dir, ram)
	}
	return nil
}

// tmpfs is where RAM is staged if there is room.
const tmpfs = "/dev/shm"

// PickStaging returns /dev/shm if both its size and the host's available memory
// hold ram bytes twice over, else fallback.
func PickStaging(ram uint64, fallback string) string {
	free, _, err := hostfacts.FreeBytes(tmpfs)
	if err != nil || uint64(free) < ram+stagingMargin || availableMemory() < 2*ram+stagingMargin {
		return fallback
	}
	return tmpfs
}

// availableMemory is MemAvailable, bytes; 0 when it cannot be read.
func availableMemory() uint64 {
	b, err := os.ReadFile("/proc/meminfo")
	if err != nil {
		return 0
	}
	for line := range strings.Lines(string(b)) {
		f := strings.Fields(line)
		if len(f) == 3 && f[0] == "MemAvailable:" {
			n, _ := strconv.ParseUint(f[1], 10, 64)
			return n << 10
		}
	}
	return 0
}
