package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/cocoonv2/cocoon/internal/test/chsnaptest"
	"github.com/cocoonv2/cocoon/internal/test/registrytest"
)

// The red team: whoever writes a snapshot wants this host. A whole snapshot is
// forged again and again, at random and by what is known to name files, taken in,
// and every VM that comes of it is made, stopped and booted. What counts is what
// the kernel saw: a VMM opens the files of its own VM and no other, and is started
// with arguments of the kinds that cocoon makes.
//
// COCOON_REDTEAM=N forgeries (a slice by default), COCOON_REDTEAM_SEED repeats a run.

// forgeries of a run without COCOON_REDTEAM.
const redTeamSlice = 12

// redTeam is one store under attack, on a file system of its own that is watched.
type redTeam struct {
	*host
	watch    *openWatch
	canaries map[string][]byte // files that nobody may open or change
	layout   string
	allowed  []string // images that the honest snapshot stands on
	seen     int      // files that VMMs opened
}

func TestRedTeamForgesSnapshots(t *testing.T) {
	t.Parallel()
	vmm, _ := chsnaptest.VMM(t)
	rt := newRedTeam(t, vmm)
	seed, count := redTeamRun()
	t.Logf("COCOON_REDTEAM_SEED=%d, %d forgeries at random besides those that are known", seed, count)
	rng := rand.New(rand.NewPCG(seed, 0))
	taken := 0
	forgeries := rt.known()
	for range count {
		forgeries = append(forgeries, rt.random(rng))
	}
	for i, edits := range forgeries {
		if rt.attack(i, edits) {
			taken++
		}
		if t.Failed() {
			t.Fatalf("forgery %d of seed %d: %q", i, seed, edits)
		}
	}
	t.Logf("%d of %d forgeries were taken in, as harmless", taken, len(forgeries))
	if taken == 0 || rt.seen == 0 {
		t.Errorf("%d forgeries were taken in and VMMs opened %d files: the suite does not reach one", taken, rt.seen)
	}
	rt.untouched()
}

func newRedTeam(t *testing.T, vmm string) *redTeam {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("cocoon refuses to run without root")
	}
	dir, err := os.MkdirTemp("", "cr") // short: socket paths end at 108 bytes
	if err != nil {
		t.Fatal(err)
	}
	if err := unix.Mount("none", dir, "tmpfs", 0, "size=1g,mode=0700"); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := unix.Unmount(dir, unix.MNT_DETACH); err != nil {
			t.Error(err)
		}
		os.Remove(dir)
	})
	h := newHost(t, vmm)
	h.root, h.run = filepath.Join(dir, "root"), filepath.Join(dir, "run")
	h.env = append(h.env, "COCOON_ROOT_DIR="+h.root, "COCOON_RUN_DIR="+h.run)
	rt := &redTeam{host: h, canaries: map[string][]byte{}, layout: filepath.Join(h.work, "layout")}
	for _, name := range []string{"canary", "canary.sock", "root-canary"} {
		rt.canaries[filepath.Join(dir, name)] = bytes.Repeat([]byte("HOSTFILE"), 1<<14)
	}
	for path, b := range rt.canaries {
		if err := os.WriteFile(path, b, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	t.Cleanup(func() { leaveNothing(h.run) })
	rt.honest()
	rt.watch = watchOpens(t, dir, vmm)
	return rt
}

// honest makes the snapshot that is forged, and a neighbour whose files are
// canaries too.
func (rt *redTeam) honest() {
	for name, text := range map[string]string{"base.raw": "the base of many", "other.raw": "the base of a neighbour"} {
		b := make([]byte, 1<<20)
		copy(b, text)
		if err := os.WriteFile(filepath.Join(rt.work, name), b, 0o600); err != nil {
			rt.t.Fatal(err)
		}
	}
	rt.must("vm", "create", "web", "--kernel", "guest.elf", "--memory", "64M", "--disk", "disk.raw", "--disk", "base.raw,readonly", "--cmdline", "fill=4", "--start")
	rt.must("snapshot", "create", "web", "first")
	rt.must("snapshot", "export", "first", "-o", rt.layout, "--format", "oci")
	var inspected []struct {
		ImageBlobs []struct{ Digest string }
		Images     []struct{ Digest string }
	}
	if err := json.Unmarshal([]byte(rt.must("snapshot", "inspect", "first")), &inspected); err != nil {
		rt.t.Fatal(err)
	}
	for _, im := range append(inspected[0].ImageBlobs, inspected[0].Images...) {
		rt.allowed = append(rt.allowed, strings.TrimPrefix(im.Digest, "sha256:"))
	}
	if len(rt.allowed) == 0 {
		rt.t.Fatal("the honest snapshot stands on no image")
	}
	rt.must("vm", "rm", "--force", "web")
	rt.must("image", "import", "other.raw", "--name", "other")
	rt.must("vm", "create", "neighbour", "--kernel", "guest.elf", "--memory", "64M", "--disk", "disk.raw")
	rt.keep(rt.root, "vms")
	rt.keep(rt.root, "images")
}

// keep makes what lies in a folder of the store canaries.
func (rt *redTeam) keep(root, folder string) {
	err := filepath.WalkDir(filepath.Join(root, folder), func(path string, d os.DirEntry, err error) error {
		if err != nil || !d.Type().IsRegular() || filepath.Base(path) == "lock" {
			return err
		}
		b, err := os.ReadFile(path)
		rt.canaries[path] = b
		return err
	})
	if err != nil {
		rt.t.Fatal(err)
	}
}

// attack takes one forgery in and makes every VM of it; true where it came in.
func (rt *redTeam) attack(i int, edits []string) bool {
	l, err := registrytest.Load(rt.layout)
	if err != nil {
		rt.t.Fatal(err)
	}
	for _, e := range edits {
		if err := l.Edit(e); err != nil {
			return false // an edit before it took its place away
		}
	}
	dir := filepath.Join(rt.work, fmt.Sprintf("forged-%d", i))
	if _, err := l.Save(dir); err != nil {
		return false
	}
	defer os.RemoveAll(dir)
	if i%4 == 3 { // the layout's index and its tag too
		rt.forgeIndex(dir, i)
	}
	if rt.tried("snapshot", "import", dir, "--name", "forged") != 0 {
		return false
	}
	for _, how := range rt.ways(i) {
		if rt.tried(append([]string{"vm", "create", "warm", "--from-snapshot", "forged"}, how...)...) != 0 {
			continue
		}
		rt.tried("vm", "stop", "warm", "--timeout", "1s")
		rt.tried("vm", "start", "warm")
		rt.tried("vm", "rm", "--force", "warm")
	}
	rt.tried("snapshot", "export", "forged", "-o", dir+"-ch", "--format", "ch")
	rt.tried("snapshot", "rm", "--force", "forged")
	os.RemoveAll(dir + "-ch")
	rt.judge()
	return true
}

// ways in which a VM is made of forgery i: each in a whole run, two of them in a
// slice.
func (rt *redTeam) ways(i int) [][]string {
	warm := [][]string{{"--restore-mode", "copy"}, {"--restore-mode", "map"}, {"--restore-mode", "stream"}, {"--network", "none"}}
	if os.Getenv("COCOON_REDTEAM") == "" {
		warm = warm[i%len(warm):][:1]
	}
	return append(warm, []string{"--cold"})
}

// tried runs a command that may refuse but not break down, and answers its exit
// code.
func (rt *redTeam) tried(args ...string) int {
	c, _, stderr := rt.command(args)
	_ = c.Run() // the exit code is looked at
	text := stderr.String()
	if code := c.ProcessState.ExitCode(); code < 0 || strings.Contains(text, "goroutine ") || strings.Contains(text, "panic:") {
		rt.t.Errorf("cocoon %s broke down (exit code %d): %s", strings.Join(args, " "), code, text)
	}
	if strings.ContainsFunc(text, func(r rune) bool { return r < ' ' && r != '\n' && r != '\t' || r == 0x7f }) {
		rt.t.Errorf("cocoon %s prints control characters: %q", strings.Join(args, " "), text)
	}
	return c.ProcessState.ExitCode()
}

// judge looks at what the kernel saw of the VMMs.
func (rt *redTeam) judge() {
	rt.t.Helper()
	opens, argv := rt.watch.take()
	rt.seen += len(opens)
	for pid, args := range argv {
		for _, problem := range strangeArguments(args, rt.root, rt.run) {
			rt.t.Errorf("a VMM was started with %s: %q", problem, args)
		}
		vm := vmOf(args, rt.run)
		for _, o := range opens {
			if o.pid == pid && !rt.own(o.path, vm) {
				rt.t.Errorf("the VMM of VM %s opened %s", vm, o.path)
			}
		}
	}
}

// own: a file of the VM, or an image that the honest snapshot stands on.
func (rt *redTeam) own(path, vm string) bool {
	path = strings.TrimSuffix(path, " (deleted)")
	if vm != "" && (strings.HasPrefix(path, filepath.Join(rt.root, "vms", vm)+"/") || strings.HasPrefix(path, filepath.Join(rt.run, vm)+"/")) {
		return true
	}
	dir, name := filepath.Split(path)
	return dir == filepath.Join(rt.root, "images", "blobs", "sha256")+"/" && slices.Contains(rt.allowed, name)
}

// untouched: no canary was written, the store is whole and nothing was left.
func (rt *redTeam) untouched() {
	for path, want := range rt.canaries {
		if got, err := os.ReadFile(path); err != nil || !bytes.Equal(got, want) {
			rt.t.Errorf("%s is not what it was (%v)", path, err)
		}
	}
	rt.must("snapshot", "verify", "--all", "--read-data")
	rt.bare()
}

// vmOf is the VM that a VMM was started for, by the folder of its API socket.
func vmOf(args []string, run string) string {
	for _, a := range args {
		if _, path, ok := strings.Cut(a, run+"/"); ok {
			id, _, _ := strings.Cut(path, "/")
			return id
		}
	}
	return ""
}

// flagsMade are the flags that cocoon gives a VMM.
var flagsMade = []string{
	"--api-socket", "--cpus", "--memory", "--memory-zone", "--serial", "--console", "--kernel", "--firmware", "--initramfs", "--cmdline", "--disk", "--net",
	"--vsock", "--balloon", "--platform", "--watchdog", "--pvpanic", "--rng", "--landlock", "--landlock-rules", "--event-monitor", "--log-file", "--seccomp",
}

// strangeArguments lists what cocoon would not give a VMM.
func strangeArguments(args []string, root, run string) []string {
	var out []string
	for i, a := range args[1:] {
		switch {
		case strings.HasPrefix(a, "--"):
			if flag, _, _ := strings.Cut(a, "="); !slices.Contains(flagsMade, flag) {
				out = append(out, "the flag "+a)
			}
		case i > 0 && args[i] == "--cmdline": // any text
		default:
			for _, option := range strings.Split(a, ",") {
				_, value, ok := strings.Cut(option, "=")
				if !ok {
					value = option
				}
				if strings.HasPrefix(value, "/") && !strings.HasPrefix(value, root+"/") && !strings.HasPrefix(value, run+"/") && !strings.HasPrefix(value, "/dev/shm/cocoon-") && value != "/dev/urandom" {
					out = append(out, "the path "+value)
				}
			}
		}
	}
	return out
}
