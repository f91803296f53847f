package chsnaptest

import (
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// suite is one run of the conformance tests. Booting a guest can take seconds
// where KVM is nested, so most cases share one running VM and one snapshot of it;
// a case that uses the shared VM leaves it running, or fails.
type suite struct {
	binary, kernel string
	source         *vm // running, with a disk
	saved          *savedVM
}

// savedVM is a snapshot taken once: its folder, the disk of that moment, and the
// last count the guest had printed.
type savedVM struct {
	dir, disk string
	last      uint64
}

const caseTimeout = 30 * time.Second

// Conformance runs every rule that the rest of the project relies on against
// binary with kernel as the guest. A case that cannot run here is skipped with
// its reason.
func Conformance(t *testing.T, binary, kernel string) {
	s := &suite{binary: binary, kernel: kernel}
	for _, c := range []struct {
		rule string
		test func(*testing.T, *suite)
	}{
		{"ping names the process and the version", testPing},
		{"a booted guest ticks until it is paused", testPause},
		{"a guest may be paused at any moment after boot", testPauseAtOnce},
		{"errors have the status and chain of v53", testErrors},
		{"a wrong method or body is refused", testBadRequests},
		{"a snapshot is three private files and a matching table", testSnapshotFiles},
		{"a failed snapshot leaves the files it had written", testSnapshotLeftovers},
		{"a full disk fails the snapshot and leaves memory-ranges at full size", testNoSpace},
		{"a client that dies during a snapshot leaves the VM paused", testClientDeath},
		{"a copy restore continues counter and disk", testCopyRestore},
		{"restore with resume needs no further call", testRestoreResume},
		{"mapped clones share a file and never change it", testMappedRestore},
		{"a mapped clone can be snapshotted and restored again", testMappedSnapshot},
		{"a failed restore leaves the VMM usable", testRestoreFailures},
		{"a guest on a TAP answers and beats, also after a restore", testNetwork},
		{"a TAP that cannot be opened is refused in the words of v53", testBadTAPs},
		{"a stream that is refused brings all and leaves the guest running", testStream},
		{"a paused VM streams and stays paused", testStreamPaused},
		{"a stream whose peer dies leaves the guest running", testStreamPeerDies},
		{"calls during a stream are refused as v53 does", testStreamRefusals},
		{"a stream gives the disk locks up at its state", testStreamLocks},
		{"a VM can be pushed over several connections", testReceive},
		{"what a pushing peer gets wrong is refused", testReceiveRefusals},
		{"waiting for a push lets nothing else through", testReceiveBlocks},
		{"a disk in use is refused, until vm.shutdown, which keeps files", testDiskLock},
		{"the VMM's end leaves lock and files, a kill also the socket", testEnd},
		{"an API socket in use is refused, a stale one replaced", testSocketLock},
	} {
		if s.source == nil {
			s.source = s.bootWithDisk(t)
		}
		if !t.Run(strings.ReplaceAll(c.rule, " ", "_"), func(t *testing.T) { c.test(t, s) }) {
			s.source = nil // it may be in any state, or have hung: the next case gets another
		}
	}
}

// vm is one VMM of a case with the guest's console and folder for its files.
type vm struct {
	*process
	t       *testing.T
	ctx     context.Context
	dir     string
	console console
	disk    string // "" without a disk
}

// scratch returns a folder for RAM-sized files that goes with the test.
func scratch(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp(scratchRoot(), "cocoon-conformance-")
	if err != nil {
		t.Fatalf("making a scratch folder: %v", err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	return dir
}

// launch starts a VMM with the given arguments.
func (s *suite) launch(t *testing.T, args ...string) *vm {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 2*caseTimeout)
	v := &vm{t: t, ctx: ctx, dir: scratch(t)}
	v.console.path = filepath.Join(v.dir, "serial")
	for i, a := range args {
		args[i] = strings.ReplaceAll(a, "$DIR", v.dir)
	}
	p, err := start(ctx, s.binary, v.dir, "vmm", args...)
	if err != nil {
		cancel()
		t.Fatal(err)
	}
	v.process = p
	t.Cleanup(func() {
		cancel()
		p.kill()
	})
	return v
}

// empty starts a VMM without a VM.
func (s *suite) empty(t *testing.T) *vm {
	t.Helper()
	return s.launch(t)
}

// running is the shared VM on behalf of one case.
func (s *suite) running(t *testing.T) *vm {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), caseTimeout)
	t.Cleanup(cancel)
	v := *s.source
	v.t, v.ctx = t, ctx
	v.wantState("Running")
	return &v
}

// snapshot is the shared snapshot, taken the first time a case wants it.
func (s *suite) snapshot(t *testing.T) *savedVM {
	t.Helper()
	if s.saved == nil {
		v := s.running(t)
		dir := v.snapshot()
		s.saved = &savedVM{dir: dir, disk: filepath.Join(dir, "disk.copy"), last: v.lastTick()}
		copyFile(t, s.saved.disk, v.disk)
		v.must("vm.resume", nil)
	}
	return s.saved
}

// boot starts a guest and waits for its first ticks. extra are more arguments;
// $DIR in them is the VM's folder.
func (s *suite) boot(t *testing.T, extra ...string) *vm {
	t.Helper()
	v := s.launch(t, append(bootArgs(s.kernel, "$DIR/serial"), extra...)...)
	v.waitTicks(3)
	return v
}

// bootWithDisk starts a guest with one writable raw disk of 1 MiB.
func (s *suite) bootWithDisk(t *testing.T) *vm {
	t.Helper()
	disk := filepath.Join(scratch(t), "disk.raw")
	if err := os.WriteFile(disk, make([]byte, 1<<20), 0o600); err != nil {
		t.Fatal(err)
	}
	v := s.boot(t, "--disk", "path="+disk+",image_type=raw,serial=cow0")
	v.disk = disk
	return v
}

// must makes a call that has to succeed.
func (v *vm) must(call string, body any) {
	v.t.Helper()
	if err := v.put(v.ctx, call, body); err != nil {
		v.t.Fatal(err)
	}
}

// waitTicks waits until the console shows n ticks and returns the last one.
func (v *vm) waitTicks(n int) tick {
	v.t.Helper()
	last, err := v.console.wait(v.ctx, v.process, n)
	if err != nil {
		v.t.Fatal(err)
	}
	return last
}

// more waits for n further ticks.
func (v *vm) more(n int) tick {
	v.t.Helper()
	list, _ := v.output()
	return v.waitTicks(len(list) + n)
}

// output returns all ticks and BAD lines so far.
func (v *vm) output() ([]tick, []string) {
	v.t.Helper()
	list, bad, err := v.console.ticks()
	if err != nil {
		v.t.Fatal(err)
	}
	return list, bad
}

// healthy fails the test when the guest printed BAD, skipped a count, or has a
// disk that does not stand where RAM stands.
func (v *vm) healthy() {
	v.t.Helper()
	list, bad := v.output()
	if len(bad) > 0 {
		v.t.Errorf("guest of %s printed %d BAD lines, first %q", v.dir, len(bad), bad[0])
	}
	for i, k := range list {
		if i > 0 && k.ram != list[i-1].ram+1 {
			v.t.Fatalf("tick %d is %#x after %#x", i, k.ram, list[i-1].ram)
		}
		if v.disk != "" && k.hasDisk && k.disk != k.ram {
			v.t.Fatalf("tick %d: RAM %#x, disk %#x", i, k.ram, k.disk)
		}
	}
}

// state is vm.info's state.
func (v *vm) state() string {
	v.t.Helper()
	i, err := v.info(v.ctx)
	if err != nil {
		v.t.Fatal(err)
	}
	return i.State
}

func (v *vm) wantState(want string) {
	v.t.Helper()
	if got := v.state(); got != want {
		v.t.Errorf("state %s, want %s", got, want)
	}
}

// snapshot pauses the VM and saves it into a new folder.
func (v *vm) snapshot() string {
	v.t.Helper()
	v.must("vm.pause", nil)
	dir := v.folder("snapshot")
	v.must("vm.snapshot", fileURL(dir))
	return dir
}

// folder makes an empty private folder beside the VM's files.
func (v *vm) folder(name string) string {
	v.t.Helper()
	dir, err := os.MkdirTemp(v.dir, name+"-")
	if err != nil {
		v.t.Fatal(err)
	}
	return dir
}
