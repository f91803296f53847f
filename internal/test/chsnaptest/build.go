package chsnaptest

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

const (
	simulatorPackage = "github.com/cocoonv2/cocoon/internal/test/chsnaptest/cmd/cocoon-chsim"
	buildPrefix      = "cocoon-chsim-"
	builtAlready     = "COCOON_TEST_CHSIM"
	probedAlready    = "COCOON_TEST_PROBED"
	probeTimeout     = 2 * time.Minute // a busy host is no reason for the simulator
)

// A test process builds the simulator and probes the real VMM at most once.
var (
	buildOnce = sync.OnceValues(buildSimulator)
	probeOnce = sync.OnceValues(probeReal)
)

// Build returns the path of the simulator, compiled from this module the first
// time a test process asks. The next process that builds removes what a finished
// one left in the temporary folder.
func Build(t testing.TB) string {
	t.Helper()
	path, err := buildOnce()
	if err != nil {
		t.Fatalf("building the simulator: %v", err)
	}
	return path
}

func buildSimulator() (string, error) {
	if path := os.Getenv(builtAlready); path != "" {
		return path, nil
	}
	removeOldBuilds(os.TempDir())
	dir := filepath.Join(os.TempDir(), buildPrefix+strconv.Itoa(os.Getpid()))
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return "", fmt.Errorf("making the folder for it: %w", err)
	}
	path := filepath.Join(dir, "cocoon-chsim")
	cmd := exec.Command("go", "build", "-o", path, simulatorPackage)
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		return "", fmt.Errorf("go build %s: %w: %s", simulatorPackage, err, out)
	}
	return path, os.Setenv(builtAlready, path) // for the test processes that this one starts
}

// removeOldBuilds deletes the build folders of processes that are gone.
func removeOldBuilds(tmp string) {
	found, _ := filepath.Glob(filepath.Join(tmp, buildPrefix+"*"))
	for _, dir := range found {
		pid, err := strconv.Atoi(strings.TrimPrefix(filepath.Base(dir), buildPrefix))
		if err == nil && unix.Kill(pid, 0) == unix.ESRCH {
			_ = os.RemoveAll(dir) // best effort: it is only space
		}
	}
}

// VMM returns the binary tests should use and whether it is the real one: the
// cloud-hypervisor on PATH when it can boot and snapshot the test guest here,
// else the simulator. The reason is logged. COCOON_TEST_VMM=sim or real decides
// instead; a real one that was asked for and does not work fails the test.
func VMM(t testing.TB) (binary string, real bool) {
	t.Helper()
	choice := os.Getenv("COCOON_TEST_VMM")
	switch choice {
	case "sim":
		t.Log("VMM: simulator, because COCOON_TEST_VMM=sim")
		return Build(t), false
	case "", "real":
	default:
		t.Fatalf("COCOON_TEST_VMM=%q: want sim or real", choice)
	}
	path, err := probeOnce()
	switch {
	case err == nil:
		t.Logf("VMM: real %s, it boots and snapshots the test guest", path)
		return path, true
	case choice == "real":
		t.Fatalf("COCOON_TEST_VMM=real: %v", err)
	}
	t.Logf("VMM: simulator, because %v", err)
	return Build(t), false
}

// probeReal finds the real VMM and tries it.
func probeReal() (string, error) {
	path, err := exec.LookPath("cloud-hypervisor")
	if err != nil {
		return "", fmt.Errorf("no cloud-hypervisor on PATH: %w", err)
	}
	if os.Getenv(probedAlready) == path {
		return path, nil
	}
	dir, err := os.MkdirTemp("", "cocoon-guest-")
	if err != nil {
		return "", fmt.Errorf("making a folder for the test guest: %w", err)
	}
	defer os.RemoveAll(dir)
	kernel := filepath.Join(dir, "guest.elf")
	if err := writeKernel(kernel); err != nil {
		return "", err
	}
	ctx, cancel := context.WithTimeout(context.Background(), probeTimeout)
	defer cancel()
	if err := Probe(ctx, path, kernel); err != nil {
		return "", err
	}
	return path, os.Setenv(probedAlready, path) // for the test processes that this one starts
}
