package main

import (
	"bytes"
	"fmt"
	"io"
	"log"
	"net/http/httptest"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-containerregistry/pkg/registry"
	"github.com/rogpeppe/go-internal/testscript"

	"github.com/cocoonv2/cocoon/internal/base/guest"
	"github.com/cocoonv2/cocoon/internal/test/chsnaptest"
	"github.com/cocoonv2/cocoon/internal/test/leaktest"
)

func TestMain(m *testing.M) {
	// A command that runs within this process starts it for its keepers and guards.
	if len(os.Args) > 1 && strings.HasPrefix(os.Args[1], "__") {
		os.Exit(Main())
	}
	testscript.Main(beside{hearsSignals{leaktest.Checked(m)}}, map[string]func(){"cocoon": func() { os.Exit(Main()) }})
}

// hearsSignals runs tests under nohup and as a job in the background too: commands
// would inherit that SIGHUP or SIGINT is ignored, and do not end by it then.
type hearsSignals struct{ leaktest.M }

func (h hearsSignals) Run() int {
	for _, s := range []os.Signal{syscall.SIGHUP, syscall.SIGINT} {
		if signal.Ignored(s) {
			signal.Notify(make(chan os.Signal, 1), s)
		}
	}
	return h.M.Run()
}

// TestScripts runs whole transcripts of the command line: verbs, output keys,
// exit codes, residue. They run on the real VMM where it is usable, else on
// the simulator; the log says which.
func TestScripts(t *testing.T) {
	t.Parallel()
	if os.Geteuid() != 0 {
		t.Skip("cocoon refuses to run without root")
	}
	vmm, _ := chsnaptest.VMM(t)
	testscript.Run(t, testscript.Params{
		Dir:   "testdata/script",
		Setup: func(e *testscript.Env) error { return setup(e, vmm) },
		Cmds: map[string]func(*testscript.TestScript, bool, []string){
			"exits":      exits,
			"full":       fullStdout,
			"counts":     counts,
			"wentback":   wentBack,
			"truncate":   truncate,
			"samefile":   sameFile,
			"rot":        rot,
			"residue":    residue,
			"keepas":     keepAs,
			"sameplan":   samePlan,
			"prometheus": prometheus,
			"registry":   startRegistry,
			"clear":      inTheClear,
			"forge":      forge,
			"plant":      plant,
			"replaces":   replaces,
		},
	})
}

func setup(e *testscript.Env, vmm string) error {
	run, err := os.MkdirTemp("", "cr") // short: socket paths end at 108 bytes
	if err != nil {
		return err
	}
	e.Setenv("COCOON_ROOT_DIR", filepath.Join(e.WorkDir, "root"))
	e.Setenv("COCOON_RUN_DIR", run)
	e.Setenv("COCOON_HYPERVISOR", vmm)
	e.Setenv("VMM", vmm)
	e.Setenv("COCOON_CACHE_AHEAD", "off") // leases of a process in the background would be residue
	e.Setenv("XDG_RUNTIME_DIR", run)
	e.Defer(func() {
		leaveNothing(run)
		thaw(e.WorkDir)
	})
	disk, err := os.Create(filepath.Join(e.WorkDir, "disk.raw"))
	if err != nil {
		return err
	}
	defer disk.Close()
	if err := disk.Truncate(16 << 20); err != nil {
		return err
	}
	return guest.WriteFile(filepath.Join(e.WorkDir, "guest.elf"))
}

// exits CODE COMMAND ARGS…: the command ends with exactly this code, prints one
// line (and perhaps a hint) on stderr where it fails, nothing on stdout.
func exits(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) < 2 {
		ts.Fatalf("usage: exits CODE COMMAND ARGS…")
	}
	want, err := strconv.Atoi(args[0])
	ts.Check(err)
	err = ts.Exec(args[1], args[2:]...)
	got := 0
	if err != nil {
		exit, ok := err.(*exec.ExitError)
		if !ok {
			ts.Fatalf("%v", err)
		}
		got = exit.ExitCode()
	}
	if got != want {
		ts.Fatalf("exit code %d, want %d: %s", got, want, ts.ReadFile("stderr"))
	}
	if stderr := ts.ReadFile("stderr"); want != 0 && !strings.HasPrefix(stderr, "cocoon: ") {
		ts.Fatalf("stderr of a failure does not begin with \"cocoon: \": %q", stderr)
	}
}

// fullStdout CODE COMMAND ARGS…: as exits, with a stdout that takes nothing.
func fullStdout(ts *testscript.TestScript, neg bool, args []string) {
	exits(ts, neg, append([]string{args[0], "sh", "-c", `"$0" "$@" > /dev/full`}, args[1:]...))
}

// counts VM [PAST|+MORE]: the guest prints a counter above PAST, or above what it
// printed so far and MORE; RAM and disk agree where it has a disk, and no BAD
// line was ever printed.
func counts(ts *testscript.TestScript, neg bool, args []string) {
	past, more := uint64(0), false
	if len(args) == 2 {
		var number string
		var err error
		number, more = strings.CutPrefix(args[1], "+")
		past, err = strconv.ParseUint(number, 10, 32)
		ts.Check(err)
	}
	deadline := time.Now().Add(60 * time.Second)
	for time.Now().Before(deadline) {
		if ts.Exec("cocoon", "vm", "logs", args[0]) == nil {
			log := []byte(ts.ReadFile("stdout"))
			if bad := guest.Bad(log); len(bad) > 0 {
				ts.Fatalf("guest says %s", bad[0])
			}
			ram, _, ok := guest.LastTick(log)
			if ok && more {
				past, more = past+uint64(ram), false
			}
			if ok && uint64(ram) > past {
				return
			}
		}
		time.Sleep(20 * time.Millisecond)
	}
	ts.Fatalf("guest %s did not count past %d: %s", args[0], past, ts.ReadFile("stderr"))
}

// wentBack OLD NEW: the guest whose serial log is NEW began where it had been
// before the end of OLD, and has not booted.
func wentBack(ts *testscript.TestScript, neg bool, args []string) {
	old, now := []byte(ts.ReadFile(args[0])), []byte(ts.ReadFile(args[1]))
	last, _, ok := guest.LastTick(old)
	if !ok || bytes.Contains(now, []byte("BOOT")) {
		ts.Fatalf("no ticks, or a boot: %s, then %s", old, now)
	}
	for line := range bytes.Lines(now) {
		if first, _, ok := guest.LastTick(line); ok {
			if (first < last) == neg {
				ts.Fatalf("it counted to %d and went on at %d", last, first)
			}
			return
		}
	}
	ts.Fatalf("no ticks: %s", now)
}

// truncate FILE SIZE cuts or grows a file.
func truncate(ts *testscript.TestScript, neg bool, args []string) {
	n, err := strconv.ParseInt(args[1], 10, 64)
	ts.Check(err)
	ts.Check(os.Truncate(ts.MkAbs(args[0]), n))
}

// sameFile A B compares large files byte for byte.
func sameFile(ts *testscript.TestScript, neg bool, args []string) {
	a, err := os.ReadFile(ts.MkAbs(args[0]))
	ts.Check(err)
	b, err := os.ReadFile(ts.MkAbs(args[1]))
	ts.Check(err)
	if bytes.Equal(a, b) == neg {
		ts.Fatalf("%s and %s: equal is %v", args[0], args[1], !neg)
	}
}

// startRegistry: an empty OCI registry on a loopback port, its address in
// $REGISTRY, until the script ends.
func startRegistry(ts *testscript.TestScript, neg bool, args []string) {
	s := httptest.NewServer(registry.New(registry.Logger(log.New(io.Discard, "", 0))))
	ts.Defer(s.Close)
	ts.Setenv("REGISTRY", strings.TrimPrefix(s.URL, "http://"))
}

// keepas NAME: what the last command printed becomes the variable NAME.
func keepAs(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 1 {
		ts.Fatalf("usage: keepas NAME")
	}
	ts.Setenv(args[0], strings.TrimSpace(ts.ReadFile("stdout")))
}

// isTrace: an empty folder by which gc knows that a command removed something.
func isTrace(path string) bool {
	entries, err := os.ReadDir(path)
	return strings.HasPrefix(filepath.Base(path), "removed-") && err == nil && len(entries) == 0
}

// residue fails if a failed command left something that is not empty in the
// given folders of the store, or a staging folder on tmpfs.
func residue(ts *testscript.TestScript, neg bool, args []string) {
	var left []string
	for _, dir := range []string{"ingest", "leases", "journals", "trash"} {
		found, err := filepath.Glob(filepath.Join(ts.Getenv("COCOON_ROOT_DIR"), dir, "*"))
		ts.Check(err)
		left = append(left, slices.DeleteFunc(found, isTrace)...)
	}
	if len(left) > 0 {
		ts.Fatalf("left behind: %s", fmt.Sprint(left))
	}
}
