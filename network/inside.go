package network

import (
	"errors"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"

	"github.com/containernetworking/plugins/pkg/ns"
)

// InNetns runs do on a thread in the netns at path and waits; "" is the netns of
// the calling thread. Sockets and files that do opens stay in that netns for
// their lifetime. do must not start goroutines that need the netns. A missing
// netns is fs.ErrNotExist.
func InNetns(path string, do func() error) error {
	if path == "" {
		return do()
	}
	n, err := openNetns(path)
	if err != nil {
		return err
	}
	defer n.Close()
	return n.Do(func(ns.NetNS) error { return do() })
}

// Start starts cmd in the netns at path, "" being the caller's. Only the
// network namespace differs: mounts, and so the files that cmd sees, stay.
// cmd.SysProcAttr.Pdeathsig must not be set, since the thread that forks ends.
func Start(path string, cmd *exec.Cmd) error {
	return InNetns(path, cmd.Start)
}

// sysctl writes a value below /proc/sys for the netns of the calling thread. A
// key that the kernel was built without is success.
func sysctl(key, value string) error {
	f, err := os.OpenFile(filepath.Join("/proc/sys", key), os.O_WRONLY, 0)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	_, err = f.WriteString(value)
	return errors.Join(err, f.Close())
}
