package inmemory

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// suite is a testing.M of one function.
type suite func()

func (s suite) Run() int { s(); return 0 }

// TestTestsAreInMemoryWhereThereIsSome, and leave nothing there.
func TestTestsAreInMemoryWhereThereIsSome(t *testing.T) {
	t.Setenv("TMPDIR", os.TempDir())
	t.Setenv("COCOON_TEST_ON_DISK", "")
	here := room()
	if here == "" {
		t.Skipf("%s is not there, or too small", folder)
	}
	if err := os.Remove(here); err != nil {
		t.Fatal(err)
	}
	var in string
	if code := Tests(suite(func() { in = os.TempDir() })).Run(); code != 0 || !strings.HasPrefix(in, folder+"/cocoon-test-") {
		t.Errorf("in %s, code %d", in, code)
	}
	if _, err := os.Stat(in); !os.IsNotExist(err) {
		t.Errorf("%s is left: %v", in, err)
	}
	t.Run("dir", func(t *testing.T) { in = Dir(t) })
	if _, err := os.Stat(in); !strings.HasPrefix(in, folder) || !os.IsNotExist(err) {
		t.Errorf("%s is left, or on a disk: %v", in, err)
	}
}

// TestWhatKilledProcessesLeftGoes, and nothing of those that live.
func TestWhatKilledProcessesLeftGoes(t *testing.T) {
	c := exec.Command("true")
	if err := c.Run(); err != nil {
		t.Fatal(err)
	}
	dead, mine := filepath.Join(folder, fmt.Sprintf("%s%d-x", prefix, c.Process.Pid)), Dir(t)
	if err := os.Mkdir(dead, 0o700); err != nil {
		t.Skipf("%s is not there: %v", folder, err)
	}
	removeOld()
	if _, err := os.Stat(dead); !os.IsNotExist(err) {
		t.Errorf("%s is left: %v", dead, err)
	}
	if _, err := os.Stat(mine); err != nil {
		t.Error(err)
	}
}

// TestTestsStayOnTheDiskIfAsked.
func TestTestsStayOnTheDiskIfAsked(t *testing.T) {
	t.Setenv("COCOON_TEST_ON_DISK", "1")
	disk := t.TempDir()
	t.Setenv("TMPDIR", disk)
	var in string
	if code := Tests(suite(func() { in = os.TempDir() })).Run(); code != 0 || in != disk || strings.HasPrefix(Dir(t), folder+"/cocoon-test-") {
		t.Errorf("in %s, code %d", in, code)
	}
}
