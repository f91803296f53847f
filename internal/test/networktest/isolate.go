package networktest

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"syscall"
	"testing"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// isolated marks the second life of a test binary.
const isolated = "COCOON_TEST_ISOLATED"

// Isolated says whether this is the second life.
func Isolated() bool { return os.Getenv(isolated) != "" }

// Again runs this test binary in new namespaces, with these arguments, and
// returns its exit code.
func Again(args ...string) (int, error) {
	cmd := exec.Command("/proc/self/exe", args...)
	cmd.Args[0] = os.Args[0]
	cmd.Env = append(os.Environ(), isolated+"=1")
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: unix.CLONE_NEWNET | unix.CLONE_NEWNS, Pdeathsig: syscall.SIGKILL}
	runtime.LockOSThread() // the process dies with the thread that started it
	defer runtime.UnlockOSThread()
	err := cmd.Run()
	var exit *exec.ExitError
	if errors.As(err, &exit) {
		return exit.ExitCode(), nil
	}
	if err != nil {
		return 1, fmt.Errorf("start the tests in new namespaces: %w", err)
	}
	return 0, nil
}

// Prepare makes the namespaces of the second life a usable host.
func Prepare() error {
	if err := keepMounts(); err != nil {
		return fmt.Errorf("keep mounts in the namespace: %w", err)
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

// keepMounts makes every mount of this namespace private, from its true root:
// in a chroot "/" is no mount point. Entering a mount namespace, even one's own,
// leads to that root; a thread of its own goes there and ends with it.
func keepMounts() error {
	done := make(chan error)
	go func() {
		runtime.LockOSThread() // for ever: no other goroutine may get this root
		done <- func() error {
			if err := unix.Unshare(unix.CLONE_FS); err != nil {
				return err
			}
			mounts, err := os.Open("/proc/thread-self/ns/mnt")
			if err != nil {
				return err
			}
			defer mounts.Close()
			if err := unix.Setns(int(mounts.Fd()), unix.CLONE_NEWNS); err != nil {
				return err
			}
			return unix.Mount("", "/", "none", unix.MS_REC|unix.MS_PRIVATE, "")
		}()
	}()
	return <-done
}

// OnItsOwn runs the calling test, which is no subtest, again in namespaces of
// its own. It is true there, where the body has to run, and false afterwards in
// the first life, which returns. It skips, saying why, without root or plugins.
func OnItsOwn(t *testing.T) bool {
	t.Helper()
	NeedPlugins(t)
	if Isolated() {
		if err := Prepare(); err != nil {
			t.Fatalf("prepare the namespaces of the test: %v", err)
		}
		return true
	}
	args := []string{"-test.run=^" + t.Name() + "$", "-test.count=1"}
	if testing.Verbose() {
		args = append(args, "-test.v")
	}
	if testing.Short() {
		args = append(args, "-test.short")
	}
	if code, err := Again(args...); err != nil || code != 0 {
		t.Errorf("in namespaces of its own: exit code %d, %v", code, err)
	}
	return false
}

// PluginDirs is where Debian and others install plugins.
var PluginDirs = []string{"/opt/cni/bin", "/usr/lib/cni", "/usr/libexec/cni"}

// NeedPlugins returns the folder with the plugins, or skips.
func NeedPlugins(t testing.TB) string {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("needs root, to make namespaces")
	}
	dir := Plugins()
	if dir == "" {
		t.Skipf("no CNI plugins in %v (Debian: containernetworking-plugins)", PluginDirs)
	}
	return dir
}

// Plugins is the folder with the plugins, "" when there is none.
func Plugins() string {
	for _, dir := range PluginDirs {
		if _, err := os.Stat(filepath.Join(dir, "bridge")); err == nil {
			return dir
		}
	}
	return ""
}
