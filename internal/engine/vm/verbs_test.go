package vm

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/cocoonv2/cocoon/internal/base/failure"
	"github.com/cocoonv2/cocoon/internal/base/filelock"
	"github.com/cocoonv2/cocoon/internal/engine/keeper"
)

// TestAVerbRefusesAStateThatItIsNotFor, and says what is for it; one that is for it
// leads to the next.
func TestAVerbRefusesAStateThatItIsNotFor(t *testing.T) {
	b := newBed(t, Options{})
	ctx := t.Context()
	b.create(t, "web", false)
	stop := func() error { _, err := b.Stop(ctx, "web", StopOptions{}); return err }
	start := func() error { _, err := b.Start(ctx, "web", StartOptions{}); return err }
	pause, resume := func() error { return b.Pause(ctx, "web") }, func() error { return b.Resume(ctx, "web") }
	remove := func() error { _, err := b.Remove(ctx, "web", RemoveOptions{}); return err }
	for _, s := range []struct {
		verb string
		do   func() error
		says string // "" where it is done
		then State
	}{
		{"stop", stop, "not running", Created},
		{"pause", pause, "cocoon vm start web", Created},
		{"resume", resume, "cocoon vm start web", Created},
		{"start", start, "", Running},
		{"start", start, "its guest runs", Running},
		{"resume", resume, "its guest runs", Running},
		{"rm", remove, "--force", Running},
		{"pause", pause, "", Paused},
		{"pause", pause, "cocoon vm resume web", Paused},
		{"start", start, "cocoon vm resume web", Paused},
		{"resume", resume, "", Running},
		{"stop", stop, "", Stopped},
		{"stop", stop, "not running", Stopped},
		{"rm", remove, "", ""},
	} {
		err := s.do()
		if s.says == "" && err != nil {
			t.Fatalf("%s: %v", s.verb, err)
		}
		if s.says != "" {
			refused(t, s.verb, err, failure.Conflict, s.says)
		}
		if s.then == "" {
			_, err := b.Get(ctx, "web")
			refused(t, "get", err, failure.NotFound)
		} else if got := b.state(t, "web"); got != s.then {
			t.Fatalf("after %s the VM is %s, want %s", s.verb, got, s.then)
		}
	}
	for _, dir := range []string{b.st.Path("vms"), b.o.RunDir} {
		left, err := filepath.Glob(filepath.Join(dir, strings.Repeat("[0-9a-f]", 32)))
		if err != nil || len(left) > 0 {
			t.Errorf("left of the VM: %q, %v", left, err)
		}
	}
	for name, do := range map[string]func() error{"stop": stop, "start": start, "pause": pause, "resume": resume, "rm": remove} {
		refused(t, name+" of nobody", do(), failure.NotFound)
	}
}

// TestAStartThatFailsLeavesAVMThatStarts: nothing runs, the record says why, and the
// cause is all that has to go.
func TestAStartThatFailsLeavesAVMThatStarts(t *testing.T) {
	for name, c := range map[string]struct {
		words []string
		spoil func(*testing.T, *bed, *Record) (mend func())
		class error
		says  string
	}{
		"its VMM dies at once":        {[]string{"CHSIM_FAIL=vmm.ping=die"}, nil, nil, "the VMM ended"},
		"its VMM says nothing":        {[]string{"CHSIM_FAIL=vmm.ping=hang"}, nil, failure.Conflict, "did not answer within"},
		"its VMM does not say its VM": {[]string{"CHSIM_FAIL=vm.info=fail"}, nil, failure.Conflict, "did not boot within"},
		"its VMM dies while it boots": {[]string{"CHSIM_FAIL=vm.info=die"}, nil, nil, "the VMM ended"},
		"there is no VMM": {nil, func(_ *testing.T, b *bed, _ *Record) func() {
			was := b.o.Binary
			b.o.Binary = "/nothing/of/this/name"
			return func() { b.o.Binary = was }
		}, failure.NotFound, "/nothing/of/this/name"},
		"an image is missing": {nil, func(t *testing.T, b *bed, rec *Record) func() {
			return aside(t, b.images.Path(rec.Kernel.Digest))
		}, failure.Damaged, "is missing"},
		"a disk is missing": {nil, func(t *testing.T, b *bed, rec *Record) func() {
			return aside(t, filepath.Join(b.Dir(rec.ID), rec.Disks[0].File))
		}, os.ErrNotExist, "lock disk"},
		"a disk looks like another format": {nil, func(t *testing.T, b *bed, rec *Record) func() {
			path := filepath.Join(b.Dir(rec.ID), rec.Disks[0].File)
			write := func(s string) {
				f, err := os.OpenFile(path, os.O_WRONLY, 0)
				if err == nil {
					_, err = f.WriteString(s)
					err = errors.Join(err, f.Close())
				}
				if err != nil {
					t.Fatal(err)
				}
			}
			write("QFI\xfb\x00\x00\x00\x03")
			return func() { write(strings.Repeat("\x00", 8)) }
		}, failure.Incompatible, "disk 0"},
	} {
		t.Run(name, func(t *testing.T) {
			b := newBed(t, Options{Patience: quick})
			rec := b.create(t, "web", false)
			bad, mend := b.told(t, c.words...), func() {}
			if c.spoil != nil {
				mend = c.spoil(t, bad, rec)
			}
			_, err := bad.Start(t.Context(), "web", StartOptions{})
			if err == nil || c.class != nil && !errors.Is(err, c.class) || !strings.Contains(err.Error(), c.says) {
				t.Fatalf("%v, want %v: %s", err, c.class, c.says)
			}
			got := b.get(t, "web")
			if got.State != Broken || got.Process != nil || !strings.Contains(got.LastError, c.says) {
				t.Errorf("the VM is %s, process %+v, last error %q", got.State, got.Process, got.LastError)
			}
			if all, err := vmms(); err != nil || len(all[rec.ID]) > 0 {
				t.Errorf("VMMs live: %v, %v", all[rec.ID], err)
			}
			if sockets, _ := filepath.Glob(filepath.Join(b.RunDir(rec.ID), "*.sock")); len(sockets) > 0 {
				t.Errorf("sockets are left: %q", sockets)
			}
			mend()
			b.o.Patience = 0
			if again, err := b.Start(t.Context(), "web", StartOptions{}); err != nil || again.LastError != "" || b.state(t, "web") != Running {
				t.Errorf("with the cause gone: %v, %+v", err, again)
			}
		})
	}
}

// aside moves a file out of the way, and back.
func aside(t *testing.T, path string) (back func()) {
	t.Helper()
	other := filepath.Join(filepath.Dir(path), "aside")
	if err := os.Rename(path, other); err != nil {
		t.Fatal(err)
	}
	return func() {
		if err := os.Rename(other, path); err != nil {
			t.Error(err)
		}
	}
}

// TestACreationThatFailsLeavesNothing, however far it came.
func TestACreationThatFailsLeavesNothing(t *testing.T) {
	b := newBed(t, Options{Patience: quick})
	for name, c := range map[string]struct {
		words []string
		spoil func(*CreateSpec)
		class error
		says  string
	}{
		"its VMM dies":          {[]string{"CHSIM_FAIL=vmm.ping=die"}, func(*CreateSpec) {}, nil, "the VMM ended"},
		"no kernel":             {nil, func(s *CreateSpec) { s.Kernel = "" }, failure.Usage, "--kernel or --firmware"},
		"a kernel and firmware": {nil, func(s *CreateSpec) { s.Firmware = s.Kernel }, failure.Usage, "not both"},
		"a kernel that is none": {nil, func(s *CreateSpec) { s.Kernel += ".gone" }, failure.NotFound, "no file"},
		"a disk that is none":   {nil, func(s *CreateSpec) { s.Disks[0].Path += ".gone" }, failure.NotFound, "no such file"},
		"a disk that is shrunk": {nil, func(s *CreateSpec) { s.Disks[0].Bytes = 512 }, failure.Usage, "smaller than the file"},
		"no such image":         {nil, func(s *CreateSpec) { s.Image = "debian" }, failure.NotFound, "debian"},
		"a flag for a kernel":   {nil, func(s *CreateSpec) { s.Cmdline = "--disk=x" }, failure.Usage, "--disk"},
		"a reserved label":      {nil, func(s *CreateSpec) { s.Labels = map[string]string{"cocoon.x": "y"} }, failure.Usage, "cocoon.x"},
		"an argument twice":     {nil, func(s *CreateSpec) { s.ExtraArgs = []string{"--cpus=2"} }, failure.Usage, "--cpus"},
		"too little memory":     {nil, func(s *CreateSpec) { s.MemoryBytes = 1 << 20 }, failure.Usage, "32M"},
		"a name that is an id":  {nil, func(s *CreateSpec) { s.Name = strings.Repeat("0", 32) }, failure.Usage, "no id"},
	} {
		spec := CreateSpec{Name: "web", CPUs: 1, MemoryBytes: 32 << 20, Kernel: b.kernel, Disks: []DiskSpec{{Path: b.disk}}, Start: true}
		c.spoil(&spec)
		_, err := b.told(t, c.words...).Create(t.Context(), spec)
		if err == nil || c.class != nil && !errors.Is(err, c.class) || !strings.Contains(err.Error(), c.says) {
			t.Errorf("%s: %v, want %v: %s", name, err, c.class, c.says)
		}
		if all, err := b.List(t.Context()); err != nil || len(all) > 0 {
			t.Errorf("%s: VMs %v, %v", name, all, err)
		}
		for _, dir := range []string{b.st.Path("vms"), b.o.RunDir} {
			if left, _ := filepath.Glob(filepath.Join(dir, strings.Repeat("[0-9a-f]", 32))); len(left) > 0 {
				t.Errorf("%s: left %q", name, left)
			}
		}
	}
}

// TestAVMComesToItsEndByTheGentlestWayThatWorks, and says by which.
func TestAVMComesToItsEndByTheGentlestWayThatWorks(t *testing.T) {
	for name, c := range map[string]struct {
		words  []string
		before func(*testing.T, *bed, *Record)
		reason string
		says   string
	}{
		"the guest hears the button":    {nil, nil, PoweredOff, "by itself"},
		"it does not":                   {[]string{"CHSIM_POWER_BUTTON=ignore"}, nil, PowerCut, "did not power itself off within 50ms"},
		"there is no button":            {[]string{"CHSIM_FAIL=vm.power-button=fail"}, nil, PowerCut, "could not be pressed"},
		"it is paused":                  {nil, func(t *testing.T, b *bed, _ *Record) { must(t, b.Pause(t.Context(), "web")) }, PowerCut, "it was paused"},
		"its VMM is known to be frozen": {nil, func(t *testing.T, b *bed, rec *Record) { must(t, b.inVain(t.Context(), rec.ID, Frozen)) }, PowerCut, "its VMM was frozen"},
		"its VMM does not end either":   {[]string{"CHSIM_POWER_BUTTON=ignore", "CHSIM_FAIL=vm.shutdown=fail,vmm.shutdown=fail"}, nil, PowerCut, "within 50ms"},
		"its VMM hangs":                 {[]string{"CHSIM_POWER_BUTTON=ignore", "CHSIM_FAIL=vm.shutdown=hang"}, nil, PowerCut, "within 50ms"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			b := newBed(t, Options{}, c.words...)
			rec := b.create(t, "web", true)
			if c.before != nil {
				c.before(t, b, rec)
			}
			timeout := 50 * time.Millisecond
			if c.reason == PoweredOff {
				timeout = 0 // as long as it takes
			}
			exit, err := b.Stop(t.Context(), "web", StopOptions{Timeout: timeout})
			if err != nil || exit.Reason != c.reason || !strings.Contains(exit.String(), c.says) {
				t.Fatalf("%v, %v; want %s: %s", exit, err, c.reason, c.says)
			}
			got := b.get(t, "web")
			if got.State != Stopped || got.Process != nil || got.Exit == nil || got.Exit.String() != exit.String() || alive(rec.Process) {
				t.Errorf("the VM is %s, process %+v, exit %v", got.State, got.Process, got.Exit)
			}
		})
	}
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// TestAStopThatIsCalledOffStopsNothing: it says that the guest was asked.
func TestAStopThatIsCalledOffStopsNothing(t *testing.T) {
	b := newBed(t, Options{}, "CHSIM_POWER_BUTTON=ignore")
	rec := b.create(t, "web", true)
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	_, err := b.Stop(ctx, "web", StopOptions{Timeout: time.Hour})
	refused(t, "stop", err, context.DeadlineExceeded, "its power was not cut")
	if b.state(t, "web") != Running || !alive(rec.Process) {
		t.Error("the VM was stopped")
	}
}

// letGo waits until an ended VMM holds no file of its VM any more: the kernel reports
// the end of a process with several threads an instant before it drops their locks.
func (b *bed) letGo(t *testing.T, rec *Record) {
	t.Helper()
	for end := time.Now().Add(time.Minute); ; time.Sleep(time.Millisecond) {
		file, err := b.taken(rec.ID)
		must(t, err)
		if file == "" {
			return
		}
		if time.Now().After(end) {
			t.Fatalf("%s is held by nobody", file)
		}
	}
}

// TestHowAVMMEndedIsSaid by its keeper, when no verb ended it.
func TestHowAVMMEndedIsSaid(t *testing.T) {
	one := 1
	for name, c := range map[string]struct {
		end   keeper.End
		want  string
		short string
		bad   bool
	}{
		"in order":            {keeper.End{Orderly: true, Signal: "SIGSEGV"}, PoweredOff, PoweredOff, false},
		"with code 0":         {keeper.End{Code: new(int)}, PoweredOff, PoweredOff, false},
		"by a signal":         {keeper.End{Signal: "SIGKILL"}, "killed: its VMM, by SIGKILL", "SIGKILL", true},
		"with another code":   {keeper.End{Code: &one}, "failed: its VMM, with exit code 1", "exit code 1", true},
		"nobody can say more": {keeper.End{}, Unseen, Unseen, false},
	} {
		e := exitAs(&c.end)
		if e.String() != c.want || e.Short() != c.short || e.Bad() != c.bad {
			t.Errorf("%s: %q, short %q, bad %v", name, e, e.Short(), e.Bad())
		}
	}
	if e := exitAs(nil); e.Reason != Unseen || !e.At.IsZero() {
		t.Errorf("nobody was there: %+v", e)
	}
	b := newBed(t, Options{})
	rec := b.create(t, "web", true)
	p, err := os.FindProcess(rec.Process.PID)
	must(t, err)
	must(t, p.Kill())
	if !ended(t.Context(), rec.Process, time.Minute) {
		t.Fatal("it lives")
	}
	b.letGo(t, rec)
	if got := b.get(t, "web"); got.State != Broken || got.Exit == nil || got.Exit.Short() != "SIGKILL" || !strings.Contains(got.LastError, "SIGKILL") {
		t.Errorf("%s, %+v, %q", got.State, got.Exit, got.LastError)
	}
	gone := *rec.Process
	gone.BootID = "another"
	if e := b.exitOf(rec.ID, &gone); e.Reason != HostRestarted || e.Bad() {
		t.Errorf("of another boot: %+v", e)
	}
}

// TestAVMThatRunsWhereItCannotBeSeenIsLeft: whoever holds its files, no verb that
// would need them goes on.
func TestAVMThatRunsWhereItCannotBeSeenIsLeft(t *testing.T) {
	b := newBed(t, Options{Patience: quick})
	rec := b.create(t, "web", false)
	lock, err := filelock.Exclusive(t.Context(), b.seatPath(rec.ID))
	must(t, err)
	_, err = b.Start(t.Context(), "web", StartOptions{})
	refused(t, "start", err, failure.Conflict, "runs elsewhere", "fuser")
	_, err = b.takeSeat(t.Context(), rec)
	refused(t, "take the seat", err, failure.Conflict, "run by another VMM", "fuser")
	must(t, lock.Unlock())
	disk, err := filelock.ExclusiveExisting(t.Context(), filepath.Join(b.Dir(rec.ID), rec.Disks[0].File))
	must(t, err)
	_, err = b.takeSeat(t.Context(), rec)
	refused(t, "take a disk", err, failure.Conflict, "disk 0 of VM web is in use", "fuser")
	refused(t, "remove", b.Discard(t.Context(), rec.ID), failure.Conflict, "runs elsewhere")
	must(t, disk.Unlock())
	if got := b.get(t, "web"); got.State != Created {
		t.Errorf("the VM is %s", got.State)
	}
}
