package main

import (
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/cocoonv2/cocoon/internal/test/programtest"
)

// TestWithoutRoot runs the program as nobody: exit code 2, and no store appears.
func TestWithoutRoot(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("only root can become nobody")
	}
	dir, err := os.MkdirTemp("", "cocoon-nobody")
	if err != nil {
		t.Fatal(err)
	}
	defer os.RemoveAll(dir)
	if err := os.Chmod(dir, 0o777); err != nil {
		t.Fatal(err)
	}
	program := filepath.Join(dir, "cocoon") // found by its name, see TestMain
	in, err := os.Open("/proc/self/exe")
	if err != nil {
		t.Fatal(err)
	}
	defer in.Close()
	err = programtest.WriteFrom(program, func(w io.Writer) error {
		_, err := io.Copy(w, in)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	root := filepath.Join(dir, "root")
	c := exec.Command(program, "--root-dir", root, "snapshot", "list")
	c.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: 65534, Gid: 65534}}
	said, err := c.CombinedOutput()
	if code := c.ProcessState.ExitCode(); code != 2 || !strings.Contains(string(said), "must run as root") {
		t.Errorf("exit code %d (%v): %s", code, err, said)
	}
	if _, err := os.Stat(root); err == nil {
		t.Error("a store was made")
	}
}
