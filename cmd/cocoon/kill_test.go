package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/cocoonv2/cocoon/chsnap"
	"github.com/cocoonv2/cocoon/internal/base/durable"
	"github.com/cocoonv2/cocoon/internal/base/filelock"
	"github.com/cocoonv2/cocoon/internal/base/guest"
	"github.com/cocoonv2/cocoon/internal/test/chsnaptest"
	"github.com/cocoonv2/cocoon/store/keyring"
)

// host is a store with its run folder, and the program that works on it as
// processes of their own, so that they can be killed.
type host struct {
	t         *testing.T
	root, run string
	work      string
	env       []string
	keys      *keyring.Ring // nil where nothing is encrypted
}

func newHost(t *testing.T, vmm string, env ...string) *host {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("cocoon refuses to run without root")
	}
	run, err := os.MkdirTemp("", "cr") // short: socket paths end at 108 bytes
	if err != nil {
		t.Fatal(err)
	}
	h := &host{t: t, root: filepath.Join(t.TempDir(), "root"), run: run, work: t.TempDir()}
	h.env = append(os.Environ(), "COCOON_ROOT_DIR="+h.root, "COCOON_RUN_DIR="+run, "COCOON_HYPERVISOR="+vmm, "COCOON_CACHE_AHEAD=off")
	h.env = append(h.env, env...)
	t.Cleanup(func() { leaveNothing(run) })
	if err := guest.WriteFile(filepath.Join(h.work, "guest.elf")); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(h.work, "disk.raw"), make([]byte, 8<<20), 0o600); err != nil {
		t.Fatal(err)
	}
	return h
}

func (h *host) command(args []string, env ...string) (*exec.Cmd, *bytes.Buffer, *bytes.Buffer) {
	c := exec.Command("cocoon", args...)
	var out, stderr bytes.Buffer
	c.Env, c.Dir, c.Stdout, c.Stderr = h.simulated(slices.Concat(h.env, env)), h.work, &out, &stderr
	return c, &out, &stderr
}

// bare fails if a command that failed left something that only gc would remove.
func (h *host) bare() {
	h.t.Helper()
	for _, folder := range []string{"ingest", "leases", "journals", "trash"} {
		if left := h.left(folder); len(left) > 0 {
			h.t.Errorf("left behind: %s/%v", folder, left)
		}
	}
}

// left is what lies in a folder of the store, but for traces of removals.
func (h *host) left(folder string) []string {
	h.t.Helper()
	found, err := filepath.Glob(filepath.Join(h.root, folder, "*"))
	if err != nil {
		h.t.Fatal(err)
	}
	return slices.DeleteFunc(found, isTrace)
}

// must runs a command that has to succeed and answers its stdout.
func (h *host) must(args ...string) string {
	h.t.Helper()
	c, out, stderr := h.command(args)
	if err := c.Run(); err != nil {
		h.t.Fatalf("cocoon %s: %v: %s", strings.Join(args, " "), err, stderr)
	}
	return strings.TrimSpace(out.String())
}

// killed runs a command that has to die at a step.
func (h *host) killed(step string, args ...string) {
	h.t.Helper()
	c, _, stderr := h.command(args, durable.KillAt+"="+step)
	err := c.Run()
	var exit *exec.ExitError
	if !errors.As(err, &exit) || exit.Sys().(syscall.WaitStatus).Signal() != syscall.SIGKILL {
		h.t.Fatalf("cocoon %s was not killed at %s: %v: %s", strings.Join(args, " "), step, err, stderr)
	}
}

func (h *host) vm(name string) vmRow {
	h.t.Helper()
	var rows []vmRow
	if err := json.Unmarshal([]byte(h.must("vm", "inspect", name)), &rows); err != nil || len(rows) != 1 {
		h.t.Fatalf("inspect %s: %v, %d rows", name, err, len(rows))
	}
	return rows[0]
}

// runsWithin asks the VMM itself, not cocoon, which would help it along. It asks
// once in a millisecond at most and as often as the limit has milliseconds: on
// a machine that is busy with other tests both, the asking and the guard that
// resumes the guest, get their turns later.
func (h *host) runsWithin(v vmRow, limit time.Duration) {
	h.t.Helper()
	client := chsnap.NewClient(v.APISocket, 0)
	start := time.Now()
	for asked := time.Duration(1); ; asked++ {
		info, err := client.Info(context.Background())
		took := time.Since(start)
		if err == nil && info.State == "Running" {
			h.t.Logf("the guest runs %d ms after the end of the command", took.Milliseconds())
			return
		}
		if took > limit && asked > limit/time.Millisecond {
			h.t.Fatalf("the guest does not run %s after the end of the command: %+v, %v", took, info, err)
		}
		time.Sleep(time.Millisecond)
	}
}

// clean holds the store against what must never be: after one gc nothing is
// left that a second would take, what stands is whole, no process outlives
// what it worked for.
func (h *host) clean(snapshots ...string) {
	h.t.Helper()
	h.must("gc")
	var rep struct{ Removed []json.RawMessage }
	if err := json.Unmarshal([]byte(h.must("gc", "--format", "json")), &rep); err != nil || len(rep.Removed) > 0 {
		h.t.Errorf("a second gc still removes %s (%v)", rep.Removed, err)
	}
	for _, folder := range []string{"ingest", "leases", "journals", "trash"} {
		if left, _ := os.ReadDir(filepath.Join(h.root, folder)); len(left) > 0 {
			h.t.Errorf("%s holds %v after gc", folder, left)
		}
	}
	err := filepath.WalkDir(h.root, func(path string, e fs.DirEntry, err error) error {
		if err == nil && temporary.MatchString(e.Name()) {
			h.t.Errorf("left behind: %s", path)
		}
		return nil // gone meanwhile
	})
	if err != nil {
		h.t.Error(err)
	}
	h.must("snapshot", "verify", "--all", "--read-data")
	names := strings.Fields(h.must("snapshot", "list", "--format", "{{.Name}}"))
	for _, n := range snapshots {
		if !slices.Contains(names, n) {
			h.t.Errorf("snapshot %s is lost; there are %v", n, names)
		}
	}
	var vms []vmRow
	if err := json.Unmarshal([]byte(h.must("vm", "list", "--format", "json")), &vms); err != nil {
		h.t.Fatal(err)
	}
	h.noStrangers(vms)
}

// noStrangers fails for a VMM below the run folder that no VM record names, and
// for staged RAM of these VMs.
func (h *host) noStrangers(vms []vmRow) {
	h.t.Helper()
	for _, p := range processes(func(p process) bool { return strings.Contains(p.args, "path="+h.run+"/") }) {
		if !slices.ContainsFunc(vms, func(v vmRow) bool { return v.PID == p.pid }) {
			h.t.Errorf("process %d is a VMM without a VM", p.pid)
		}
	}
	for _, pid := range h.keepers() {
		if !slices.ContainsFunc(vms, func(v vmRow) bool { return v.PID != 0 && h.keeps(pid, v.ID) }) {
			h.t.Errorf("process %d keeps no VM", pid)
		}
	}
	if left, _ := filepath.Glob(filepath.Join(h.run, "*", "migration.sock")); len(left) > 0 {
		h.t.Errorf("migration sockets are left: %v", left)
	}
	for _, v := range vms {
		if left, _ := filepath.Glob("/dev/shm/cocoon-*-" + v.ID + "-*"); len(left) > 0 {
			h.t.Errorf("staged RAM is left: %v", left)
		}
	}
}

// steps that a kill is tried at, by verb. TestEveryStepIsKilled keeps the list
// whole.
var (
	pauseSteps  = []string{"capture.paused", "capture.saved", "capture.disks"}
	streamSteps = []string{
		"migration.connected", "migration.start", "migration.config", "migration.memory", "migration.memory#2",
		"migration.state", "migration.complete", "migration.answered",
	}
	commitSteps = []string{
		"store.ingest.blob-written", "store.ingest.blob-kept", "store.ingest.blob-kept#2",
		"store.commit.staged", "store.name.taken", "store.commit.checked", "store.commit.published",
	}
	restoreSteps = []string{
		"vm.reserved", "restore.reserve", "restore.network", "restore.disks", "restore.materialised", "restore.memory",
		"vm.launched", "restore.launch", "restore.load", "restore.resume", "restore.announce", "restore.published", "restore.record",
	}
	pushSteps = []string{
		"vm.reserved", "restore.reserve", "restore.disks", "restore.launch", "restore.streaming", "restore.streamed",
		"restore.load", "restore.resume", "restore.published", "restore.record",
	}
	renameSteps   = []string{"store.names.linked", "store.name.taken", "store.name.given"}
	removeSteps   = []string{"store.remove.checked", "store.remove.unpublished"}
	vmCreateSteps = []string{"image.copied", "vm.create.disks", "vm.create.published"}
	vmRemoveSteps = []string{"vm.discard.killed", "vm.discard.trashed"}
	attachSteps   = []string{"network.claimed", "network.netns", "network.added", "vm.create.attached"}
	detachSteps   = []string{"network.deleted", "network.unwired"}
	collectSteps  = []string{"gc.reaped", "gc.marked", "gc.planned", "store.discard", "gc.settled", "gc.swept", "store.trash.unlinked", "gc.noted"}
	repackSteps   = []string{
		"store.ingest.blob-written", "store.repack.packed", "store.repack.mapped", "store.repack.staged", "store.repack.replaced", "gc.repacked", "store.discard",
	}
	repairSteps    = []string{"store.repair.written", "store.repair.replaced"}
	suspendSteps   = []string{"vm.suspend.paused", "migration.memory", "store.commit.published", "vm.suspend.asleep", "vm.suspend.ended"}
	wakeSteps      = []string{"wake.memory", "wake.launch", "wake.load", "vm.wake.saved", "wake.awake", "wake.resume"}
	bootSteps      = []string{"vm.launched", "vm.configured", "vm.booted"}
	stopSteps      = []string{"vm.stop.asked"}
	encryptSteps   = []string{"store.encrypt.marked"}
	elsewhereSteps = []string{"refs.rebuilt", "store.verify.snapshot", "gc.breath"} // in the tests of refs and gc; nothing to leave half-done
)

func TestEveryStepIsKilled(t *testing.T) {
	var all []string
	for _, l := range [][]string{pauseSteps, streamSteps, commitSteps, restoreSteps, pushSteps, renameSteps, removeSteps, vmCreateSteps, vmRemoveSteps, attachSteps, detachSteps, collectSteps, repackSteps, repairSteps, suspendSteps, wakeSteps, exchangeSteps, becomeSteps, bootSteps, stopSteps, encryptSteps, elsewhereSteps} {
		all = append(all, l...)
	}
	call := regexp.MustCompile(`durable\.Step\("([^"]+)"`)
	err := filepath.WalkDir("../..", func(path string, d fs.DirEntry, err error) error {
		if err != nil || !strings.HasSuffix(path, ".go") || strings.HasSuffix(path, "_test.go") {
			return err
		}
		b, err := os.ReadFile(path)
		for _, m := range call.FindAllStringSubmatch(string(b), -1) {
			if name := m[1]; !slices.Contains(all, name) && name != "restore." {
				t.Errorf("%s: no test kills at step %s", path, name)
			}
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
}

// TestKillAtEachStep kills each verb at each of its named steps, looks at what
// must never be, and repeats the verb.
func TestKillAtEachStep(t *testing.T) {
	t.Parallel()
	vmm, _ := chsnaptest.VMM(t)
	t.Run("snapshot create --capture file", func(t *testing.T) {
		t.Parallel()
		killCaptures(newHost(t, vmm), "file", slices.Concat(pauseSteps, commitSteps))
	})
	t.Run("snapshot create --capture live", func(t *testing.T) {
		t.Parallel()
		killCaptures(newHost(t, vmm), "live", slices.Concat(streamSteps, commitSteps))
	})
	t.Run("vm create --from-snapshot", func(t *testing.T) { t.Parallel(); killRestores(newHost(t, vmm), "map", restoreSteps) })
	t.Run("vm create by stream", func(t *testing.T) { t.Parallel(); killRestores(newHost(t, vmm), "stream", pushSteps) })
	t.Run("snapshot rm and gc", func(t *testing.T) { t.Parallel(); killRemovals(newHost(t, vmm)) })
	t.Run("gc --repack", func(t *testing.T) { t.Parallel(); killRepacks(newHost(t, vmm)) })
	t.Run("vm restore", func(t *testing.T) { t.Parallel(); killExchanges(newHost(t, vmm)) })
	t.Run("vm suspend and start", func(t *testing.T) { t.Parallel(); killSuspends(newHost(t, vmm)) })
	t.Run("vm start of a rebuilt VM", func(t *testing.T) { t.Parallel(); killBoots(newHost(t, vmm)) })
	t.Run("vm create and rm", func(t *testing.T) { t.Parallel(); killVMs(newHost(t, vmm)) })
}

func (h *host) boot(name string) vmRow {
	h.t.Helper()
	h.must("vm", "create", name, "--kernel", "guest.elf", "--disk", "disk.raw", "--memory", "64M", "--start")
	h.counts(name)
	return h.vm(name)
}

// counts waits for a tick that is newer than now.
func (h *host) counts(name string) {
	h.t.Helper()
	first, ok := uint32(0), false
	for deadline := time.Now().Add(60 * time.Second); time.Now().Before(deadline); time.Sleep(10 * time.Millisecond) {
		log := []byte(h.must("vm", "logs", name))
		if bad := guest.Bad(log); len(bad) > 0 {
			h.t.Fatalf("guest says %s", bad[0])
		}
		ram, _, found := guest.LastTick(log)
		if found && ok && ram > first {
			return
		}
		if found && !ok {
			first, ok = ram, true
		}
	}
	h.t.Fatalf("guest %s does not count", name)
}

// heard waits until a guest that was asked to power off has done so, or has gone on
// counting instead: what its VMM held is for gc only when the VMM has ended.
func (h *host) heard(name string) {
	h.t.Helper()
	tick := func() uint32 {
		ram, _, _ := guest.LastTick([]byte(h.must("vm", "logs", name)))
		return ram
	}
	seat, first := filepath.Join(h.root, "vms", h.vm(name).ID, "vmm.lock"), tick()
	h.until("the guest powers off or counts on", func() bool {
		held, err := filelock.Held(seat)
		return err == nil && !held || tick() > first+2
	})
}

func killCaptures(h *host, mode string, steps []string) {
	v := h.boot("web")
	h.must("snapshot", "create", "web", "base")
	for i, step := range steps {
		name := fmt.Sprintf("s%d", i)
		h.killed(step, "snapshot", "create", "web", name, "--capture", mode)
		h.runsWithin(v, 100*time.Millisecond)
		h.clean("base")
		names := strings.Fields(h.must("snapshot", "list", "--format", "{{.Name}}"))
		if published := slices.Contains(names, name); published != (step == "store.commit.published") {
			h.t.Errorf("killed at %s: published is %v", step, published)
		} else if !published {
			h.must("snapshot", "create", "web", name, "--capture", mode)
		}
	}
	h.counts("web")
}

func killRestores(h *host, mode string, steps []string) {
	h.boot("web")
	h.must("snapshot", "create", "web", "base")
	h.must("vm", "rm", "-f", "web")
	for i, step := range steps {
		name := fmt.Sprintf("c%d", i)
		h.killed(step, "vm", "create", name, "--from-snapshot", "base", "--restore-mode", mode)
		h.clean("base")
		exists := slices.Contains(strings.Fields(h.must("vm", "list", "--format", "{{.Name}}")), name)
		if want := step == "restore.published" || step == "restore.record"; exists != want {
			h.t.Errorf("killed at %s: the VM exists is %v", step, exists)
		} else if !exists {
			h.must("vm", "create", name, "--from-snapshot", "base", "--restore-mode", mode)
		}
		h.counts(name)
		h.must("vm", "rm", "-f", name)
		h.must("gc", "--cache-max-bytes", "0") // forget the materialised RAM, so that it is made again
	}
}

func killRemovals(h *host) {
	h.boot("web")
	h.must("snapshot", "create", "web", "base")
	killRenames(h)
	for _, step := range removeSteps {
		h.must("snapshot", "create", "web", "victim", "--parent", "none")
		h.killed(step, "snapshot", "rm", "victim")
		h.clean("base")
		h.must("snapshot", "create", "web", "victim", "--replace")
		h.must("snapshot", "rm", "victim")
	}
	for _, step := range collectSteps {
		h.must("snapshot", "create", "web", "victim", "--parent", "none")
		h.must("gc") // knows the victim, so that the next run has to note that it went
		h.must("snapshot", "rm", "victim")
		h.killed(step, "gc")
		h.clean("base")
	}
	h.counts("web")
}

// killRenames: whoever died in a rename left one name or the other, found by its
// link; the other is free.
func killRenames(h *host) {
	h.t.Helper()
	for _, step := range renameSteps {
		if step == "store.names.linked" { // that is when a store of an earlier program is met
			if err := os.Remove(filepath.Join(h.root, "names", ".whole")); err != nil {
				h.t.Fatal(err)
			}
		}
		h.killed(step, "snapshot", "rename", "base", "renamed")
		from, to := "base", "renamed"
		if step == "store.name.given" {
			from, to = to, from
		}
		h.must("snapshot", "rename", from, to)
		h.must("snapshot", "rename", to, "other")
		h.must("snapshot", "rename", "other", "base")
		h.must("gc")
		links, err := filepath.Glob(filepath.Join(h.root, "names", "[a-z]*"))
		if err != nil || len(links) != 1 || filepath.Base(links[0]) != "base" {
			h.t.Errorf("killed at %s: links are left: %v, %v", step, links, err)
		}
	}
}

// repackAll is a gc that rewrites every pack of which a page is not needed.
var repackAll = []string{"gc", "--repack", "--repack-threshold", "100%"}

// worn leaves a snapshot of this name that needs a part of another one's packs,
// which is removed.
func (h *host) worn(vm, name string) {
	h.t.Helper()
	h.must("snapshot", "create", vm, name+"-parent", "--parent", "none")
	h.must("snapshot", "create", vm, name, "--parent", name+"-parent")
	h.must("snapshot", "rm", name+"-parent")
}

func killRepacks(h *host) {
	h.boot("web")
	h.must("snapshot", "create", "web", "base")
	for i, step := range repackSteps {
		name := fmt.Sprintf("s%d", i)
		h.worn("web", name)
		h.killed(step, repackAll...)
		h.clean("base", name)
		h.must(repackAll...)
		h.clean("base", name)
		h.must("vm", "create", "c", "--from-snapshot", name)
		h.counts("c")
		h.must("vm", "rm", "-f", "c")
		h.must("snapshot", "rm", name)
	}
	h.counts("web")
}

func killVMs(h *host) {
	for i, step := range vmCreateSteps {
		name := fmt.Sprintf("v%d", i)
		args := []string{"vm", "create", name, "--kernel", "guest.elf", "--disk", "disk.raw", "--memory", "64M"}
		if err := os.WriteFile(filepath.Join(h.work, "guest.elf"), append(guest.ELF(), byte(i)), 0o600); err != nil {
			h.t.Fatal(err) // a new blob each time
		}
		h.killed(step, args...)
		h.clean()
		if step != "vm.create.published" {
			h.must(args...)
		}
		h.killed("vm.launched", "vm", "start", name)
		h.must("vm", "start", name)
		h.counts(name)
		h.killed(stopSteps[0], "vm", "stop", name)
		h.heard(name)
		h.clean()
	}
	for i, step := range vmRemoveSteps {
		name := fmt.Sprintf("v%d", i)
		h.killed(step, "vm", "rm", "-f", name)
		h.clean()
		if left := strings.Fields(h.must("vm", "list", "--format", "{{.Name}}")); slices.Contains(left, name) {
			h.must("vm", "rm", "-f", name)
		}
	}
	h.clean()
}
