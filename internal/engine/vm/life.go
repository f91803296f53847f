package vm

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"

	"github.com/cocoonv2/cocoon/chsnap"
	"github.com/cocoonv2/cocoon/internal/base/durable"
	"github.com/cocoonv2/cocoon/internal/base/failure"
	"github.com/cocoonv2/cocoon/internal/base/hint"
	"github.com/cocoonv2/cocoon/internal/base/patience"
	"github.com/cocoonv2/cocoon/store"
)

// ColdBootArgs are the complete arguments of a boot from the disks. The record is
// not trusted: what cannot be an argument is an error.
func (m *Manager) ColdBootArgs(ctx context.Context, rec *Record) chsnap.Args {
	var a chsnap.Args
	a.Fail("boot", rec.bootable())
	h := rec.hardware()
	cpus := append([]chsnap.Option{chsnap.NumberOption("boot", int64(rec.CPUs))}, h.cpuOptions()...)
	a.Options("--cpus", append(cpus, chsnap.OperatorOption(m.o.CPUArgs))...)
	a.Options("--memory", append([]chsnap.Option{chsnap.NumberOption("size", rec.MemoryBytes)}, h.memoryOptions(rec.HotplugBytes)...)...)
	a.Options("--serial", chsnap.PathOption("file", m.SerialPath(rec.ID)))
	h.devices(&a, m.VsockPath(rec))
	for _, f := range []struct {
		flag string
		ref  *store.ImageRef
	}{{"--kernel", rec.Kernel}, {"--firmware", rec.Firmware}, {"--initramfs", rec.Initramfs}} {
		if f.ref != nil {
			a.Path(f.flag, m.images.Path(f.ref.Digest))
		}
	}
	if rec.Cmdline != "" {
		text, err := rec.commandLine()
		a.Fail("--cmdline", err)
		a.Text("--cmdline", text)
	}
	for _, d := range rec.Disks {
		a.Options("--disk", m.diskOptions(rec, d)...)
	}
	for _, n := range rec.Networks {
		a.Options("--net", netOptions(n)...)
	}
	m.confineArgs(ctx, rec, &a)
	a.Operator(m.extraArgs(rec)...)
	return a
}

// diskOptions are those of --disk.
func (m *Manager) diskOptions(rec *Record, d Disk) []chsnap.Option {
	path := filepath.Join(m.Dir(rec.ID), d.File)
	if d.Image != "" {
		path = m.images.Path(d.Image)
	}
	o := []chsnap.Option{
		chsnap.PathOption("path", path), chsnap.WordOption("id", d.DeviceID), chsnap.WordOption("image_type", "raw"),
		chsnap.WordOption("serial", d.Serial),
	}
	if d.Readonly || d.Image != "" { // other VMs share an image
		o = append(o, chsnap.WordOption("readonly", "on"))
	}
	return o
}

// StartOptions of Start.
type StartOptions struct {
	Boot BootPaths // what it boots with from now on
	// Rewire, which may be nil, moves its interfaces to other networks before
	// they are attached; the record changes once the VM runs.
	Rewire func(context.Context, *Record) error
}

// Start boots a VM from its disks; it refuses a suspended one.
func (m *Manager) Start(ctx context.Context, ref string, o StartOptions) (*Record, error) {
	rec, unlock, err := m.Lock(ctx, ref, "vm start")
	if err != nil {
		return nil, err
	}
	defer unlock()
	if rec.Process != nil || rec.Sleep != nil {
		m.lookLocked(ctx, rec)
		return nil, failure.Hint(failure.New(failure.Conflict, "VM %s is %s", rec.Name, rec.State), startHint(rec))
	}
	if err := m.MayRun(ctx, rec.ID); err != nil {
		return nil, err
	}
	release, err := m.bootWith(ctx, rec, o.Boot)
	if err == nil && o.Boot.Any() {
		err = m.save(rec)
	}
	release()
	if err != nil {
		return nil, err
	}
	if err := m.ReleaseMemory(rec.ID); err != nil {
		return nil, err
	}
	were := rec.Networks
	if o.Rewire != nil {
		if err := o.Rewire(ctx, rec); err != nil {
			return nil, fmt.Errorf("start VM %s: %w", rec.Name, err)
		}
	}
	if err = CannotAttach(rec, m.Attach(ctx, rec)); err == nil {
		err = m.boot(ctx, rec)
	}
	if err != nil {
		rec.State, rec.LastError, rec.Networks = Broken, err.Error(), were
		return nil, errors.Join(fmt.Errorf("start VM %s: %w", rec.Name, err), m.save(rec))
	}
	return rec, told(rec, m.Announce(rec))
}

// startHint is for a VM that cannot be started in its state.
func startHint(rec *Record) string {
	if rec.Trouble != "" {
		return hint.Resume.Of(rec.Name) + " may resume it; else " + giveUp(rec)
	}
	return remedy(rec, rec.State)
}

// boot starts a VM whose interfaces are attached, and saves its record. On error
// nothing that it started survives: a process in no record would never be
// stopped.
func (m *Manager) boot(ctx context.Context, rec *Record) error {
	p, err := m.launchCold(ctx, rec)
	if err != nil {
		return err
	}
	was := *rec
	if err = m.booted(ctx, rec, p); err == nil {
		durable.Step("vm.booted")
		rec.Process, rec.State, rec.LastError, rec.Restore, rec.Exit = p, Running, "", nil, nil
		err = m.save(rec)
	}
	if err != nil {
		was.Process = nil
		*rec = was
		return errors.Join(err, m.endUnwritten(context.WithoutCancel(ctx), rec.ID))
	}
	return nil
}

// endUnwritten ends the VMMs of a VM that could not be recorded.
func (m *Manager) endUnwritten(ctx context.Context, id string) error {
	return errors.Join(m.Kill(ctx, id), m.removeSockets(ctx, id))
}

// booted: the VMM answers pings before its guest has booted, and some errors (a
// disk in use) only show then.
func (m *Manager) booted(ctx context.Context, rec *Record, p *Process) error {
	rec.Process = p
	client := m.Client(rec)
	within := m.o.Patience.Moving(uint64(rec.MemoryBytes))
	for deadline := time.Now().Add(within); time.Now().Before(deadline); time.Sleep(2 * time.Millisecond) {
		info, err := client.Info(ctx)
		if err == nil && info.State == "Running" {
			return nil
		}
		if !alive(p) {
			return fmt.Errorf("the VMM ended (%v): %s", err, m.LastLog(rec.ID))
		}
	}
	return failure.New(failure.Conflict, "the guest did not boot %s", patience.Within(within))
}

// StopOptions of Stop.
type StopOptions struct {
	Timeout time.Duration // for the guest to power itself off; 0 is Options.StopTimeout
}

// DefaultStopTimeout is how long a guest may take to power itself off. A system
// with services needs tens of seconds; the wait ends as soon as the guest is off.
const DefaultStopTimeout = 90 * time.Second

// Stop ends a VM: ACPI button, then vm.shutdown and vmm.shutdown, then SIGTERM,
// then SIGKILL. The result says which it was. If ctx ends while the guest powers
// itself off, it may continue to, and the VM is not stopped.
func (m *Manager) Stop(ctx context.Context, ref string, o StopOptions) (*Exit, error) {
	rec, unlock, err := m.Lock(ctx, ref, "vm stop")
	if err != nil {
		return nil, err
	}
	defer unlock()
	if rec.Sleep != nil {
		return nil, failure.Hint(failure.New(failure.Conflict, "VM %s is suspended", rec.Name), remedy(rec, Suspended)+"; "+hint.WakeCold.Of(rec.Name)+" discards its RAM")
	}
	if rec.Process == nil && !rec.Unseated {
		return nil, failure.New(failure.Conflict, "VM %s is not running", rec.Name)
	}
	exit := newExit(PowerCut, "its start was never written down")
	if rec.Process != nil {
		if exit, err = m.end(ctx, rec, cmp.Or(max(o.Timeout, 0), m.stopTimeout())); err != nil {
			return nil, fmt.Errorf("stop VM %s: %w", rec.Name, err)
		}
		exit.seen(m.endOf(rec.ID, rec.Process))
	}
	rec.Process, rec.State, rec.LastError, rec.Exit = nil, Stopped, "", exit
	return exit, errors.Join(m.save(rec), m.removeSockets(ctx, rec.ID), m.removeRooms(ctx, rec.ID), m.ReleaseMemory(rec.ID))
}

func (m *Manager) stopTimeout() time.Duration {
	if m.o.StopTimeout <= 0 {
		return DefaultStopTimeout
	}
	return m.o.StopTimeout
}

// politeTimeout is how long the VMM itself may take to end.
const politeTimeout = 2 * time.Second

// pressAgain is the interval between presses of the power button: a guest that is
// booting, or whose logind is starting, ignores it, and one that is shutting down
// does not mind.
const pressAgain = 5 * time.Second

func (m *Manager) end(ctx context.Context, rec *Record, timeout time.Duration) (*Exit, error) {
	client, p, begun := m.Client(rec), rec.Process, time.Now()
	why := "it was " + string(rec.State)
	if d := m.readDebt(ctx, rec.ID); d != nil && d.Trouble != "" {
		why = "its VMM was " + d.Trouble // nothing would react to the button
	} else if rec.State == Running {
		err := client.PowerButton(ctx)
		durable.Step("vm.stop.asked")
		switch {
		case err != nil:
			why = "its power button could not be pressed: " + err.Error()
		case m.powersOff(ctx, client, p, timeout):
			return newExit(PoweredOff, "by itself after %s", round(time.Since(begun))), nil
		default:
			why = fmt.Sprintf("it did not power itself off within %s", timeout)
		}
	}
	if ctx.Err() != nil {
		return nil, fmt.Errorf("its power was not cut, and it may yet power itself off: %w", ctx.Err())
	}
	if err := m.cutPower(ctx, rec); err != nil {
		return nil, err
	}
	return newExit(PowerCut, "%s", why), nil
}

// powersOff waits for a guest whose power button was pressed.
func (m *Manager) powersOff(ctx context.Context, client *chsnap.Client, p *Process, timeout time.Duration) bool {
	for deadline := time.Now().Add(timeout); ; {
		left := time.Until(deadline)
		if ended(ctx, p, min(left, pressAgain)) {
			return true
		}
		if left <= pressAgain || ctx.Err() != nil {
			return false
		}
		_ = client.PowerButton(ctx) // it may be ending already
	}
}

// round rounds a duration for display.
func round(d time.Duration) time.Duration {
	if d < time.Second {
		return d.Round(time.Millisecond)
	}
	return d.Round(time.Second / 10)
}

// cutPower ends a VMM without asking its guest.
func (m *Manager) cutPower(ctx context.Context, rec *Record) error {
	client, p := m.Client(rec), rec.Process
	// From here answers do not matter: the process must end.
	polite, cancel := context.WithTimeout(ctx, politeTimeout)
	defer cancel()
	_ = client.Shutdown(polite)
	_ = client.ShutdownVMM(polite)
	if ended(ctx, p, politeTimeout) {
		return nil
	}
	if signal(ctx, p, unix.SIGTERM, politeTimeout) == nil {
		return nil
	}
	return signal(context.WithoutCancel(ctx), p, unix.SIGKILL, killTimeout)
}

// Resume resumes a VM. If its record says paused while it runs, or running while
// it is paused (its capturer died), that is corrected. A command that was stopped
// while the guest is paused for it is ended, which resumes the guest too.
func (m *Manager) Resume(ctx context.Context, ref string) error {
	rec, err := m.Get(ctx, ref)
	if err != nil {
		return err
	}
	ended, err := m.endStopped(rec.ID)
	if err != nil {
		return err
	}
	rec, unlock, err := m.Lock(ctx, rec.ID, "vm resume")
	if err != nil {
		return err
	}
	defer unlock()
	state, err := m.ask(ctx, rec, "vm resume")
	if err != nil {
		return err
	}
	owed := ended || m.rescued[rec.ID] || exists(m.OwedPath(rec.ID))
	if state == Shutdown || state == Running && !owed {
		return NotRunning(rec, state)
	}
	was, err := m.Client(rec).LetGo(ctx, m.o.Patience.Moving(uint64(rec.MemoryBytes)))
	var stuck *chsnap.StuckError
	if errors.As(err, &stuck) {
		return m.stuck(ctx, rec, stuck, err)
	}
	if err != nil {
		return fmt.Errorf("vm resume %s: %w", rec.Name, err)
	}
	rec.State = Running
	err = errors.Join(m.save(rec), durable.IgnoreMissing(os.Remove(m.OwedPath(rec.ID))))
	if was == "Running" {
		return err
	}
	return errors.Join(err, told(rec, m.AnnounceSaved(ctx, rec)))
}

// Pause stops the virtual CPUs of a running VM.
func (m *Manager) Pause(ctx context.Context, ref string) error {
	rec, unlock, err := m.Lock(ctx, ref, "vm pause")
	if err != nil {
		return err
	}
	defer unlock()
	state, err := m.ask(ctx, rec, "vm pause")
	if err != nil {
		return err
	}
	if state != Running {
		return NotRunning(rec, state)
	}
	if err := m.Client(rec).Pause(ctx); err != nil {
		return fmt.Errorf("vm pause %s: %w", rec.Name, err)
	}
	rec.State = Paused
	return m.save(rec)
}

// ask returns the state that a VM's VMM reports.
func (m *Manager) ask(ctx context.Context, rec *Record, verb string) (State, error) {
	if rec.Process == nil {
		return "", failure.Hint(failure.New(failure.Conflict, "VM %s is not running", rec.Name), remedy(rec, rec.State))
	}
	info, err := m.Client(rec).Info(ctx)
	if ctx.Err() != nil {
		return "", failure.Undone(ctx.Err(), nil, "VM "+rec.Name+" is as it was")
	}
	if err != nil {
		return "", failure.Hint(fmt.Errorf("%s %s: %w", verb, rec.Name, err), giveUp(rec))
	}
	return StateOf(info), nil
}

func exists(path string) bool {
	_, err := os.Lstat(path)
	return err == nil
}
