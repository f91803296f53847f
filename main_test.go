package cocoon_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"github.com/cocoonv2/cocoon"
	"github.com/cocoonv2/cocoon/internal/base/guest"
	"github.com/cocoonv2/cocoon/internal/test/leaktest"
)

// bed is where the tests work: binaries, and a guest to boot. repository is where
// they came from.
var bed, repository string

func TestMain(m *testing.M) {
	if os.Geteuid() != 0 {
		fmt.Println("nothing was tested: cocoon needs root")
		return
	}
	os.Exit(run(m))
}

// run has the examples work as if the machine were theirs: what is on PATH, in the
// environment and in the working folder is what a reader would have there.
func run(m *testing.M) int {
	dir, err := os.MkdirTemp("", "cd") // short: socket paths end at 108 bytes
	if err == nil {
		repository, err = os.Getwd()
	}
	if err == nil {
		bed, err = dir, errors.Join(build(dir), furnish(dir))
	}
	if err != nil {
		fmt.Println("FAIL:", err)
		return 1
	}
	code := leaktest.Checked(emptied{m}).Run()
	if err := os.RemoveAll(dir); err != nil {
		fmt.Println("FAIL:", err)
		return 1
	}
	return code
}

// emptied ends the VMs that the examples left before it is looked what is left.
type emptied struct{ leaktest.M }

func (e emptied) Run() int {
	code := e.M.Run()
	host, err := cocoon.Open(context.Background(), cocoon.Options{})
	if err == nil {
		err = empty(host)
	}
	if err != nil && !errors.Is(err, cocoon.NotFound) {
		fmt.Println("FAIL:", err)
		return 1
	}
	return code
}

func build(dir string) error {
	args := []string{"build", "-o", dir}
	if testing.CoverMode() != "" { // so that they are counted too
		args = append(args, "-cover", "-coverpkg=./...")
	}
	out, err := exec.Command("go", append(args, "./cmd/cocoon", "./internal/test/chsnaptest/cmd/cocoon-chsim")...).CombinedOutput()
	if err != nil {
		return fmt.Errorf("build cocoon and the simulator: %w: %s", err, out)
	}
	return nil
}

// furnish sets up the simulator, or with COCOON_TEST_VMM=real what is on PATH.
func furnish(dir string) error {
	vmm := filepath.Join(dir, "cocoon-chsim")
	if os.Getenv("COCOON_TEST_VMM") == "real" {
		vmm = "cloud-hypervisor"
	}
	for key, value := range map[string]string{
		"PATH": dir + ":" + os.Getenv("PATH"), "COCOON_HYPERVISOR": vmm, "COCOON_CONFIG": os.DevNull, "COCOON_CACHE_AHEAD": "off",
		"COCOON_VM_STOP_TIMEOUT": "1s", // no guest here hears the power button
		"COCOON_ROOT_DIR":        filepath.Join(dir, "root"), "COCOON_RUN_DIR": filepath.Join(dir, "run"),
	} {
		if err := os.Setenv(key, value); err != nil {
			return err
		}
	}
	return errors.Join(guest.WriteFile(filepath.Join(dir, "guest.elf")), os.WriteFile(filepath.Join(dir, "disk.raw"), make([]byte, 1<<20), 0o600), os.Chdir(dir))
}

func empty(host *cocoon.Host) error {
	ctx := context.Background()
	vms, err := host.VMs(ctx)
	for _, vm := range vms {
		if vm.State == "running" || vm.State == "paused" {
			err = errors.Join(err, host.Stop(ctx, vm.ID))
		}
		err = errors.Join(err, host.RemoveVM(ctx, vm.ID))
	}
	return err
}

// eventually waits until nothing is said any more.
func eventually(t *testing.T, what func() string) {
	t.Helper()
	said := ""
	for end := time.Now().Add(time.Minute); time.Now().Before(end); time.Sleep(10 * time.Millisecond) {
		if said = what(); said == "" {
			return
		}
	}
	t.Fatal(said)
}
