package main

import (
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"io"
	"io/fs"
	"log"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-containerregistry/pkg/registry"
	"github.com/spf13/cobra"

	"github.com/cocoonv2/cocoon/chsnap"
	"github.com/cocoonv2/cocoon/internal/base/durable"
	"github.com/cocoonv2/cocoon/internal/base/owner"
	"github.com/cocoonv2/cocoon/internal/base/screen"
	"github.com/cocoonv2/cocoon/internal/engine/house"
	"github.com/cocoonv2/cocoon/internal/test/chsnaptest"
)

// crossedVerbs are command lines that are run in one store while another, with VMs
// and snapshots of the same names, stands beside it: "|" parts them, OUT is a path
// that is not there, REGISTRY a registry. A verb that is added has to be named here.
var crossedVerbs = []struct{ verb, args string }{
	{"version", ""},
	{"help", ""},
	{"completion bash", ""},
	{"completion fish", ""},
	{"completion powershell", ""},
	{"completion zsh", ""},
	{"config show", ""},
	{"vm list", "|--format json"},
	{"vm inspect", "web asleep cold"},
	{"vm logs", "web|asleep|cold"},
	{"vm create", "new --kernel guest.elf --disk disk.raw --memory 64M --start|again --from-snapshot base|twice --from-snapshot base --count 2 --restore-mode copy|dry --from-snapshot base --dry-run|chilly --from-snapshot base --cold"},
	{"vm start", "cold|web|asleep|asleep --cold"},
	{"vm stop", "web --timeout 1s|asleep|cold"},
	{"vm pause", "web|asleep"},
	{"vm resume", "web|asleep"},
	{"vm suspend", "web|cold"},
	{"vm restore", "web base|cold base --from-other|asleep base --from-other|web base --backup|web base --dry-run"},
	{"vm rm", "web|--force web|cold|asleep|--force asleep|--force web asleep cold"},
	{"snapshot create", "web new|web new --capture file|cold new|web new --stop|web new --dry-run"},
	{"snapshot list", "|--tree"},
	{"snapshot inspect", "base"},
	{"snapshot check", "base"},
	{"snapshot diff", "base base"},
	{"snapshot du", ""},
	{"snapshot verify", "--all --read-data"},
	{"snapshot protect", "base"},
	{"snapshot unprotect", "base"},
	{"snapshot rename", "base other"},
	{"snapshot tag", "base --add a=b"},
	{"snapshot import", "folder --name imported"},
	{"snapshot export", "base -o OUT|base -o OUT --format oci"},
	{"snapshot push", "base REGISTRY/vm:a --plain-http"},
	{"snapshot pull", "REGISTRY/vm:b pulled --plain-http"},
	{"snapshot prune", "--keep-last 1|--keep-last 1 --group-by none"},
	{"snapshot rm", "base|base --force"},
	{"image list", ""},
	{"image inspect", "kernel"},
	{"image import", "guest.elf --name kernel"},
	{"image pin", "kernel"},
	{"image unpin", "kernel"},
	{"image rm", "kernel"},
	{"refs", "--rebuild|guest"},
	{"system init", ""},
	{"system info", ""},
	{"system df", ""},
	{"system doctor", "|--fix"},
	{"system repair", "|--dry-run"},
	{"system key create", "OUT"},
	{"system key show", "none"},
	{"gc", "|--dry-run|--explain|--prune|--repack --repack-threshold 100%|--format json|--cache-max-bytes 0"},
	{house.GuardVerb, "a b c d"},
	{house.RescueVerb, "web"},
	{house.MaterialiseVerb, "base"},
}

// elsewhereVerbs work in folders of their own.
var elsewhereVerbs = []string{"demo", undemoVerb}

func TestEveryVerbIsRunBesideAnotherStore(t *testing.T) {
	a := &app{out: screen.New(io.Discard, "stdout"), errOut: screen.New(io.Discard, "stderr"), env: os.LookupEnv}
	root := newRoot(a)
	root.InitDefaultHelpCmd()
	root.InitDefaultCompletionCmd()
	var visit func(c *cobra.Command)
	visit = func(c *cobra.Command) {
		verb := strings.TrimPrefix(strings.TrimPrefix(c.CommandPath(), "cocoon"), " ")
		known := slices.ContainsFunc(crossedVerbs, func(v struct{ verb, args string }) bool { return v.verb == verb })
		if !c.HasSubCommands() && !known && !slices.Contains(elsewhereVerbs, verb) {
			t.Errorf("name %q in crossedVerbs", verb)
		}
		for _, sub := range c.Commands() {
			visit(sub)
		}
	}
	visit(root)
}

// bystander is a store with a VM that runs, one that sleeps and one that is stopped:
// what the verbs of other stores must leave as it was.
type bystander struct {
	*host
	registry string
	web      vmRow
	staged   []string // RAM folders of it
	root0    map[string]string
	run0     map[string]string
}

func newBystander(t *testing.T, vmm string) *bystander {
	t.Helper()
	s := httptest.NewServer(registry.New(registry.Logger(log.New(io.Discard, "", 0))))
	t.Cleanup(s.Close)
	n := &bystander{host: newHost(t, vmm, "COCOON_VMM_TIMEOUT=1m"), registry: strings.TrimPrefix(s.URL, "http://")}
	n.fill()
	n.web = n.vm("web")
	mark := n.mark()
	for _, name := range []string{
		mark.StagingPrefix(owner.OfCapture, n.web.ID) + "1", mark.StagingPrefix(owner.OfRestore, n.web.ID) + "2",
		"cocoon-" + owner.OfCapture + "-" + n.web.ID + "-3", // an older program's
	} {
		dir := filepath.Join(owner.StagingFolder, name)
		if err := os.MkdirAll(dir, 0o700); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { os.RemoveAll(dir) })
		n.staged = append(n.staged, dir)
	}
	n.look()
	return n
}

// fill makes the VMs and the snapshot that every store of these tests has.
func (h *host) fill() {
	h.t.Helper()
	h.must("image", "import", "guest.elf", "--name", "kernel")
	for _, name := range []string{"web", "asleep", "cold"} {
		h.boot(name)
	}
	h.must("snapshot", "create", "web", "base")
	h.must("vm", "suspend", "asleep")
	h.must("vm", "stop", "cold", "--timeout", "1ms")
}

func (h *host) mark() owner.Mark {
	h.t.Helper()
	id, err := owner.Read(h.root)
	if err != nil || id == "" {
		h.t.Fatalf("the store has no identity: %v", err)
	}
	m, err := owner.At(h.root, id)
	if err != nil {
		h.t.Fatal(err)
	}
	return m
}

// beside is another host of the program: another store, the same run folder unless
// one is given.
func (n *bystander) beside(root, run string) *host {
	h := *n.host
	h.root, h.run = root, run
	h.env = append(slices.Clone(n.env), "COCOON_ROOT_DIR="+root, "COCOON_RUN_DIR="+run)
	return &h
}

// look takes down how the store and its entries in the run folder are.
func (n *bystander) look() {
	n.t.Helper()
	n.root0, n.run0 = n.tree(n.root, ""), map[string]string{}
	for _, id := range n.ids() {
		for path, is := range n.tree(filepath.Join(n.run, id), "") {
			n.run0[id+"/"+path] = is
		}
	}
}

func (n *bystander) ids() []string {
	n.t.Helper()
	entries, err := os.ReadDir(filepath.Join(n.root, "vms"))
	if err != nil {
		n.t.Fatal(err)
	}
	var ids []string
	for _, e := range entries {
		if e.IsDir() {
			ids = append(ids, e.Name())
		}
	}
	return ids
}

// tree says of each file what it is: inode, mode and contents, without those that
// a guest or its VMM writes to.
func (n *bystander) tree(root, skip string) map[string]string {
	n.t.Helper()
	out := map[string]string{}
	err := filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		fi, err := d.Info()
		if err != nil {
			return err
		}
		is := fmt.Sprint(fi.Sys().(*syscall.Stat_t).Ino, fi.Mode())
		written := strings.HasPrefix(path, filepath.Join(n.root, "vms", n.web.ID, "disk-")) || strings.HasSuffix(path, ".log")
		if fi.Mode().IsRegular() && !written {
			b, err := os.ReadFile(path)
			if err != nil {
				return err
			}
			is += fmt.Sprintf(" %d %x", len(b), sha256.Sum256(b))
		}
		rel, err := filepath.Rel(root, path)
		out[rel] = is
		return err
	})
	if err != nil {
		n.t.Fatal(err)
	}
	return out
}

// untouched fails if a verb of another store has changed anything of this one.
func (n *bystander) untouched(what string) {
	n.t.Helper()
	root, run := n.root0, n.run0
	n.look()
	if diff := cmp.Diff(root, n.root0); diff != "" {
		n.t.Fatalf("%s changed the other store (-before +after):\n%s", what, diff)
	}
	if diff := cmp.Diff(run, n.run0); diff != "" {
		n.t.Fatalf("%s changed the entries of the other store (-before +after):\n%s", what, diff)
	}
	for _, dir := range n.staged {
		if _, err := os.Stat(dir); err != nil {
			n.t.Fatalf("%s took staged RAM of the other store: %v", what, err)
		}
	}
	info, err := chsnap.NewClient(n.web.APISocket, 0).Info(n.t.Context())
	if err != nil || info.State != "Running" {
		n.t.Fatalf("%s: the guest of the other store is %+v, %v", what, info, err)
	}
}

// runsOn ends with what only whole VMs can do.
func (n *bystander) runsOn() {
	n.t.Helper()
	n.counts("web")
	for _, name := range []string{"asleep", "cold"} {
		n.must("vm", "start", name)
		n.counts(name)
	}
	n.must("snapshot", "verify", "--all", "--read-data")
}

// copiesSlice is the share of the command lines that a plain `go test` runs in
// copies, of which each is made anew; COCOON_COPIES=1 runs all.
const copiesSlice = 5

func copiesShare(t *testing.T) int {
	t.Helper()
	v := os.Getenv("COCOON_COPIES")
	if v == "" {
		return copiesSlice
	}
	every, err := strconv.Atoi(v)
	if err != nil || every < 1 {
		t.Fatalf("COCOON_COPIES=%q: want a number: every how manieth command line is run", v)
	}
	return every
}

// cross runs each command line, of so many one, in a store of fresh's and looks at
// the bystander.
func (n *bystander) cross(every, first int, fresh func() (other *host, done func())) (ran int) {
	n.t.Helper()
	at := first
	for _, v := range crossedVerbs {
		for i, args := range strings.Split(v.args, "|") {
			if at++; at%every != 0 {
				continue
			}
			other, done := fresh()
			out := filepath.Join(other.work, fmt.Sprintf("out-%s-%d", strings.ReplaceAll(v.verb, " ", "-"), i))
			line := strings.Fields(v.verb + " " + strings.NewReplacer("OUT", out, "REGISTRY", n.registry).Replace(args))
			c, _, stderr := other.command(line)
			err := c.Run()
			what := strings.Join(line, " ")
			if code := c.ProcessState.ExitCode(); code < 0 || code > 8 || strings.Contains(stderr.String(), "panic:") {
				n.t.Errorf("%s: %v: %s", what, err, stderr)
			}
			n.untouched(what)
			done()
			if err := os.RemoveAll(out); err != nil {
				n.t.Fatal(err)
			}
			ran++
		}
	}
	return ran
}

// prepare makes the files that command lines name.
func (n *bystander) prepare(from *host) {
	n.t.Helper()
	from.must("snapshot", "export", "base", "-o", filepath.Join(n.work, "folder"))
	from.must("snapshot", "push", "base", n.registry+"/vm:b", "--plain-http")
	n.look()
}

// TestVerbsLeaveAnotherStoreAlone that shares their run folder and names.
func TestVerbsLeaveAnotherStoreAlone(t *testing.T) {
	t.Parallel()
	n := newBystander(t, storeVMM(t))
	n.prepare(n.host)
	other := n.beside(filepath.Join(t.TempDir(), "other"), n.run)
	t.Cleanup(func() { thaw(other.root) })
	other.fill()
	n.look()
	ran := n.cross(1, 0, func() (*host, func()) { return other, func() {} })
	t.Logf("%d command lines", ran)
	n.runsOn()
}

// TestVerbsLeaveTheOriginalOfACopyAlone, whether they share the run folder or not:
// ids, names, pids and sockets in the copied records are those of the original.
func TestVerbsLeaveTheOriginalOfACopyAlone(t *testing.T) {
	t.Parallel()
	every := copiesShare(t)
	for i, shared := range []bool{true, false} {
		t.Run(fmt.Sprintf("shared %t", shared), func(t *testing.T) {
			t.Parallel()
			n := newBystander(t, storeVMM(t))
			n.prepare(n.host)
			ran := n.cross(every, i, func() (*host, func()) {
				other := n.copied(shared)
				return other, func() { other.over(n) }
			})
			t.Logf("%d command lines", ran)
			n.runsOn()
		})
	}
}

// copied is the program on a copy of the store.
func (n *bystander) copied(shared bool) *host {
	n.t.Helper()
	dir, err := os.MkdirTemp("", "cc")
	if err != nil {
		n.t.Fatal(err)
	}
	root, run := filepath.Join(dir, "copy"), n.run
	if out, err := exec.Command("cp", "-a", n.root, root).CombinedOutput(); err != nil {
		n.t.Fatalf("%v: %s", err, out)
	}
	if !shared {
		run = filepath.Join(dir, "run")
	}
	n.t.Cleanup(func() { // images may be immutable
		thaw(root)
		os.RemoveAll(dir)
	})
	return n.beside(root, run)
}

// over ends the VMs of a copy and removes it.
func (h *host) over(n *bystander) {
	h.t.Helper()
	for _, id := range strings.Fields(h.must("vm", "list", "-q", "--no-trunc")) {
		h.must("vm", "rm", "--force", id)
	}
	h.must("gc")
	n.untouched("rm and gc of all that the copy had")
	thaw(h.root)
	if err := os.RemoveAll(filepath.Dir(h.root)); err != nil {
		h.t.Fatal(err)
	}
}

// TestACopySaysWhoseVMsAre: what runs in the original is stopped in the copy, which
// starts its VMs in a run folder of its own only.
func TestACopySaysWhoseVMsAre(t *testing.T) {
	t.Parallel()
	vmm, _ := chsnaptest.VMM(t)
	n := newBystander(t, vmm)
	c := n.copied(true)
	if v := c.vm("web"); v.State != "stopped" || v.PID != 0 {
		t.Errorf("in the copy web is %s, process %d", v.State, v.PID)
	}
	for _, args := range [][]string{{"vm", "start", "web"}, {"vm", "start", "cold"}, {"vm", "start", "asleep"}} {
		cmd, _, stderr := c.command(args)
		cmd.Run()
		if code := cmd.ProcessState.ExitCode(); code != 4 || !strings.Contains(stderr.String(), n.root) || !strings.Contains(stderr.String(), "--run-dir") {
			t.Errorf("%s: exit code %d: %s", args, code, stderr)
		}
	}
	if v := c.vm("web"); v.State != "stopped" {
		t.Errorf("a refused start made web %s", v.State)
	}
	var rep struct {
		Removed []struct{ Kind, ID string }
		Foreign []struct{ Kind, ID, Owner string }
	}
	if err := json.Unmarshal([]byte(c.must("gc", "--format", "json")), &rep); err != nil {
		t.Fatal(err)
	}
	for _, id := range n.ids() {
		if !slices.ContainsFunc(rep.Foreign, func(f struct{ Kind, ID, Owner string }) bool {
			return f.Kind == "run" && f.ID == id && strings.Contains(f.Owner, n.root)
		}) {
			t.Errorf("gc does not say whose %s is: %+v", id, rep.Foreign)
		}
	}
	doctor, out, _ := c.command([]string{"system", "doctor"})
	doctor.Run() // the host may lack other things
	if !strings.Contains(out.String(), "3 of store "+n.root) {
		t.Errorf("doctor does not count them: %s", out)
	}
	n.untouched("all that")
	own := n.beside(c.root, filepath.Join(filepath.Dir(c.root), "run"))
	for _, name := range []string{"web", "cold", "asleep"} {
		own.must("vm", "start", name)
		own.counts(name)
	}
	n.untouched("the copy's VMs run beside")
	own.must("vm", "rm", "--force", "web", "cold", "asleep")
	n.untouched("and go")
	n.runsOn()
}

// TestAStoreWhoseDiskIsNotMounted is not there, and nothing ends its guests: not a
// listing, not the timer's gc, not a store that is made in the mount point.
func TestAStoreWhoseDiskIsNotMounted(t *testing.T) {
	t.Parallel()
	vmm, _ := chsnaptest.VMM(t)
	n := newBystander(t, vmm)
	aside := n.root + "-disk"
	if err := os.Rename(n.root, aside); err != nil {
		t.Fatal(err)
	}
	if err := os.Mkdir(n.root, 0o700); err != nil {
		t.Fatal(err)
	}
	for _, args := range [][]string{{"vm", "list"}, {"gc"}, {"vm", "rm", "--force", "web"}, {"snapshot", "list"}, {"system", "repair"}} {
		cmd, _, stderr := n.command(args)
		cmd.Run()
		if code := cmd.ProcessState.ExitCode(); code != 3 || !strings.Contains(stderr.String(), "mounted") {
			t.Errorf("%s: exit code %d: %s", args, code, stderr)
		}
	}
	if left, err := os.ReadDir(n.root); err != nil || len(left) > 0 {
		t.Errorf("the mount point has %v, %v", left, err)
	}
	n.must("system", "init")
	n.must("gc", "--prune")
	n.must("gc", "--explain")
	if err := os.RemoveAll(n.root); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(aside, n.root); err != nil {
		t.Fatal(err)
	}
	n.untouched("what was done meanwhile")
	n.must("gc")
	n.look() // its own gc took what there was to take
	n.runsOn()
}

// TestAStoreThatWasMovedStartsItsVMs in the same run folder, where what they left
// has the mark of the place that is no more.
func TestAStoreThatWasMovedStartsItsVMs(t *testing.T) {
	t.Parallel()
	vmm, _ := chsnaptest.VMM(t)
	n := newBystander(t, vmm)
	n.must("vm", "suspend", "web")
	moved := n.beside(n.root+"-larger", n.run)
	if out, err := exec.Command("cp", "-a", n.root, moved.root).CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	if err := os.RemoveAll(n.root); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"web", "cold", "asleep"} {
		moved.must("vm", "start", name)
		moved.counts(name)
	}
	moved.must("vm", "rm", "--force", "web", "cold", "asleep")
	if left, _ := filepath.Glob(filepath.Join(n.run, "*", "*")); len(left) > 0 {
		t.Errorf("left in the run folder: %q", left)
	}
	// Renamed within its file system it is the same, its guests run meanwhile.
	moved.boot("web")
	again := n.beside(n.root, n.run)
	if err := os.Rename(moved.root, again.root); err != nil {
		t.Fatal(err)
	}
	if v := again.vm("web"); v.State != "running" {
		t.Errorf("after a rename it is %s", v.State)
	}
	again.counts("web")
	again.must("vm", "rm", "--force", "web")
	again.clean("base")
}

// TestACopyDoesNotMeddleWithACapture of the original, whose guest stands still for
// it: its note, its staged RAM and its lock are not the copy's.
func TestACopyDoesNotMeddleWithACapture(t *testing.T) {
	t.Parallel()
	vmm, _ := chsnaptest.VMM(t)
	n := newBystander(t, vmm)
	c, _, stderr := n.command([]string{"snapshot", "create", "web", "held", "--capture", "file"}, durable.StopAt+"=capture.paused", "COCOON_VMM_TIMEOUT=10m")
	if err := c.Start(); err != nil {
		t.Fatal(err)
	}
	held := &started{cmd: c, stderr: stderr, ended: make(chan struct{})}
	go func() {
		_ = c.Wait()
		close(held.ended)
	}()
	if !held.stands() {
		t.Fatalf("it is not held: %s", stderr)
	}
	staged := stagedFor(t, n.web.ID)
	cp := n.copied(true)
	for _, args := range [][]string{{"vm", "list"}, {"vm", "logs", "web"}, {"gc"}, {"gc", "--explain"}, {"vm", "resume", "web"}, {"vm", "rm", "--force", "web"}, {"gc"}} {
		cmd, _, _ := cp.command(args)
		cmd.Run()
		if info, err := chsnap.NewClient(n.web.APISocket, 0).Info(t.Context()); err != nil || info.State != "Paused" {
			t.Errorf("%s: the guest is %+v, %v", args, info, err)
		}
		if diff := cmp.Diff(staged, stagedFor(t, n.web.ID)); diff != "" {
			t.Errorf("%s took staged RAM:\n%s", args, diff)
		}
	}
	if err := c.Process.Signal(syscall.SIGCONT); err != nil {
		t.Fatal(err)
	}
	select {
	case <-held.ended:
	case <-time.After(2 * time.Minute):
		c.Process.Kill()
		t.Fatal("the capture hangs")
	}
	if code := c.ProcessState.ExitCode(); code != 0 {
		t.Errorf("the capture ended with %d: %s", code, stderr)
	}
	n.runsOn()
}

func stagedFor(t *testing.T, id string) []string {
	t.Helper()
	found, err := filepath.Glob(filepath.Join(owner.StagingFolder, "cocoon-*-"+id+"-*"))
	if err != nil {
		t.Fatal(err)
	}
	slices.Sort(found)
	return found
}

// TestADryRunSaysWhichProcessesWouldBeEnded, and ends none.
func TestADryRunSaysWhichProcessesWouldBeEnded(t *testing.T) {
	t.Parallel()
	vmm, _ := chsnaptest.VMM(t)
	h := newHost(t, vmm)
	h.boot("web")
	h.must("snapshot", "create", "web", "base")
	h.killed("restore.load", "vm", "create", "half", "--from-snapshot", "base")
	processes := func(args ...string) (ids []string) {
		t.Helper()
		var rep struct{ Removed []struct{ Kind, ID string } }
		if err := json.Unmarshal([]byte(h.must(append(args, "--format", "json")...)), &rep); err != nil {
			t.Fatal(err)
		}
		for _, r := range rep.Removed {
			if r.Kind == "process" {
				ids = append(ids, r.ID)
			}
		}
		return ids
	}
	lives := func(pid string) bool {
		b, _ := os.ReadFile("/proc/" + pid + "/cmdline")
		return strings.Contains(string(b), h.run)
	}
	would := processes("gc", "--dry-run")
	if len(would) != 1 || !lives(would[0]) {
		t.Fatalf("it would end %q, one VMM is left", would)
	}
	if out := h.must("gc", "--dry-run"); !strings.Contains(out, "would end") || !strings.Contains(out, would[0]) {
		t.Errorf("for people: %s", out)
	}
	if did := processes("gc"); !slices.Equal(did, would) || lives(would[0]) {
		t.Errorf("it ended %q, lives %t; the dry run said %q", did, lives(would[0]), would)
	}
	h.counts("web")
	h.clean("base")
}
