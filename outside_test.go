package cocoon_test

import (
	"bytes"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/cocoonv2/cocoon"
	"github.com/cocoonv2/cocoon/internal/base/durable"
	"github.com/cocoonv2/cocoon/internal/base/guest"
)

// outside builds the module of somebody else as he would: against this one, by a
// replace, with what it needs and no more.
func outside(t *testing.T) string {
	t.Helper()
	root, err := filepath.Abs(repository)
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	if err := os.CopyFS(dir, os.DirFS(filepath.Join(root, "testdata", "outside"))); err != nil {
		t.Fatal(err)
	}
	sums, err := os.ReadFile(filepath.Join(root, "go.sum"))
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "go.sum"), sums, 0o600); err != nil {
		t.Fatal(err)
	}
	for _, args := range [][]string{
		{"mod", "edit", "-replace", "github.com/cocoonv2/cocoon=" + root},
		{"build", "-mod=mod", "-o", "outside", "."},
	} {
		c := exec.Command("go", args...)
		c.Dir, c.Env = dir, append(os.Environ(), "GOWORK=off")
		if out, err := c.CombinedOutput(); err != nil {
			t.Fatalf("go %s: %v: %s", strings.Join(args, " "), err, out)
		}
	}
	return filepath.Join(dir, "outside")
}

// place is a store of the test, for this process and for others.
type place struct {
	host      *cocoon.Host
	root, run string // folders
	env       []string
}

func newPlace(t *testing.T, change func(*cocoon.Options)) place {
	t.Helper()
	run, err := os.MkdirTemp("", "cr") // short: socket paths end at 108 bytes
	if err != nil {
		t.Fatal(err)
	}
	o := cocoon.Options{RootDir: filepath.Join(t.TempDir(), "root"), RunDir: run, Create: true}
	if change != nil {
		change(&o)
	}
	host, err := cocoon.Open(ctx, o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := errors.Join(empty(host), os.RemoveAll(run)); err != nil {
			t.Error(err)
		}
	})
	return place{host, o.RootDir, o.RunDir, append(os.Environ(), "COCOON_ROOT_DIR="+o.RootDir, "COCOON_RUN_DIR="+run)}
}

// exec runs a program in the bed, on the store of the test.
func (p place) exec(program string, args []string, env ...string) (string, error) {
	c := exec.Command(program, args...)
	var out, stderr bytes.Buffer
	c.Dir, c.Env, c.Stdout, c.Stderr = bed, append(p.env, env...), &out, &stderr
	err := c.Run()
	if err != nil {
		err = errors.Join(err, errors.New(stderr.String()))
	}
	return out.String(), err
}

// counts waits until the guest of a VM has counted past a number, with RAM and disk
// in step, and answers where it is.
func (p place) counts(t *testing.T, vm string, past uint32) uint32 {
	t.Helper()
	v, err := p.host.InspectVM(ctx, vm)
	if err != nil {
		t.Fatal(err)
	}
	for end := time.Now().Add(time.Minute); time.Now().Before(end); time.Sleep(10 * time.Millisecond) {
		b, _ := os.ReadFile(v.SerialLog)
		if bad := guest.Bad(b); len(bad) > 0 {
			t.Fatal(bad[0])
		}
		if ram, disk, ok := guest.LastTick(b); ok && ram > past && ram == disk {
			return ram
		}
	}
	t.Fatalf("the guest of %s does not count past %d", vm, past)
	return 0
}

// TestAProgramOfSomebodyElse imports nothing of this module but what is public, is
// built by another go.mod, and does the whole job. VMs live on when it has ended;
// and when it is killed while a guest stands still for it, that goes on.
func TestAProgramOfSomebodyElse(t *testing.T) {
	program, p := outside(t), newPlace(t, nil)
	out, err := p.exec(program, []string{"tour"})
	if err != nil {
		t.Fatal(err)
	}
	if out != "web running\n" {
		t.Errorf("it says %q", out)
	}
	at := p.counts(t, "web", 0)

	_, err = p.exec(program, []string{"save"}, durable.KillAt+"=capture.paused")
	var exit *exec.ExitError
	if !errors.As(err, &exit) || exit.ProcessState.String() != "signal: killed" {
		t.Fatalf("it was to be killed with the guest standing still: %v", err)
	}
	p.counts(t, "web", at) // nobody has called since: a guard of the program's did it
}

// TestWithoutItsProgramNothingIsOpened: a VM must not be begun that nobody could
// keep or guard.
func TestWithoutItsProgramNothingIsOpened(t *testing.T) {
	root := filepath.Join(t.TempDir(), "root")
	other := filepath.Join(t.TempDir(), "cocoon")
	if err := os.WriteFile(other, []byte("#!/bin/sh\necho cocoon processes 0\n"), 0o700); err != nil {
		t.Fatal(err)
	}
	for program, class := range map[string]error{
		filepath.Join(bed, "nowhere"):  cocoon.NotFound,
		other:                          cocoon.Incompatible,
		"/bin/false":                   cocoon.Incompatible,
		filepath.Join(bed, "disk.raw"): cocoon.NotFound,
	} {
		_, err := cocoon.Open(ctx, cocoon.Options{RootDir: root, Create: true, Program: program})
		if !errors.Is(err, class) {
			t.Errorf("%s: %v, want class %v", program, err, class)
		}
	}
	if _, err := os.Stat(root); err == nil {
		t.Error("a store was made")
	}
}
