package network

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"testing"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// isolated marks the second life of the test binary, in namespaces of its own:
// what the tests make on "the host" is never seen by the real one.
const isolated = "COCOON_TEST_ISOLATED"

func TestMain(m *testing.M) {
	switch {
	case os.Geteuid() != 0:
		fmt.Println("network: tests that need namespaces are skipped: not root")
	case os.Getenv(isolated) == "":
		os.Exit(again())
	default:
		if err := prepareHost(); err != nil {
			fmt.Println("network: prepare the namespaces of the tests:", err)
			os.Exit(1)
		}
	}
	os.Exit(m.Run())
}

func again() int {
	cmd := exec.Command("/proc/self/exe", os.Args[1:]...)
	cmd.Args[0] = os.Args[0]
	cmd.Env = append(os.Environ(), isolated+"=1")
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: unix.CLONE_NEWNET | unix.CLONE_NEWNS, Pdeathsig: syscall.SIGKILL}
	err := cmd.Run()
	var exit *exec.ExitError
	switch {
	case errors.As(err, &exit):
		return exit.ExitCode()
	case err != nil:
		fmt.Println("network: start the tests in new namespaces:", err)
		return 1
	}
	return 0
}

func prepareHost() error {
	if err := unix.Mount("", "/", "none", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		return err
	}
	// sysfs shows the network of the namespace it was mounted in.
	if err := unix.Mount("sysfs", "/sys", "sysfs", 0, ""); err != nil {
		return err
	}
	for _, dir := range []string{"/run", "/var/lib/cni"} {
		if err := os.MkdirAll(dir, 0o755); err != nil {
			return err
		}
		if err := unix.Mount("tmpfs", dir, "tmpfs", 0, "mode=0755"); err != nil {
			return err
		}
	}
	lo, err := netlink.LinkByName("lo")
	if err != nil {
		return err
	}
	return netlink.LinkSetUp(lo)
}

func needRoot(t testing.TB) {
	t.Helper()
	if os.Getenv(isolated) == "" {
		t.Skip("needs root, to make namespaces")
	}
}

// needPlugins returns the folder with the plugins.
func needPlugins(t testing.TB) string {
	t.Helper()
	needRoot(t)
	for _, dir := range (Host{}).pluginDirs() {
		if _, err := os.Stat(filepath.Join(dir, "bridge")); err == nil {
			return dir
		}
	}
	t.Skipf("no CNI plugins in %v (Debian: containernetworking-plugins)", Host{}.pluginDirs())
	return ""
}
