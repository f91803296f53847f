package leaktest

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// suite is a testing.M of one function.
type suite func()

func (s suite) Run() int { s(); return 0 }

func TestWhatIsLeftBehindFails(t *testing.T) {
	lease := filepath.Join(t.TempDir(), "leases", "x")
	if err := os.Mkdir(filepath.Dir(lease), 0o700); err != nil {
		t.Fatal(err)
	}
	before := descriptors()
	f, err := os.Create(lease)
	if err != nil {
		t.Fatal(err)
	}
	found := left(before)
	f.Close()
	if len(found) != 1 || !strings.Contains(found[0], "never released") {
		t.Errorf("an open lease: %q", found)
	}
	if found := left(before); len(found) > 0 {
		t.Errorf("after it was closed: %q", found)
	}
	if code := Checked(suite(func() {})).Run(); code != 0 {
		t.Errorf("nothing was left, but the code is %d", code)
	}
	stop := make(chan struct{})
	code := Checked(suite(func() { go func() { <-stop }() })).Run()
	close(stop)
	if code != 1 {
		t.Errorf("a goroutine was left, but the code is %d", code)
	}
}
