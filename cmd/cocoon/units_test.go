package main

import (
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/cocoonv2/cocoon/internal/base/screen"
)

// unitFiles copies docs/systemd into a folder where systemd-analyze finds no fault
// with paths of this machine: program stands for the installed binary, and an
// instance is made of each template.
func unitFiles(t *testing.T, program string) []string {
	t.Helper()
	found, err := filepath.Glob("../../docs/systemd/cocoon-*")
	if err != nil || len(found) != 4 {
		t.Fatalf("unit files: %v, %v", found, err)
	}
	dir, out := t.TempDir(), []string{}
	for _, path := range found {
		b, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		text := strings.ReplaceAll(string(b), "/usr/local/bin/cocoon", program)
		for _, name := range []string{filepath.Base(path), strings.Replace(filepath.Base(path), "@.", "@web.", 1)} {
			if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o644); err != nil {
				t.Fatal(err)
			}
		}
		out = append(out, filepath.Join(dir, strings.Replace(filepath.Base(path), "@.", "@web.", 1)))
	}
	return out
}

func TestUnitsAreValid(t *testing.T) {
	analyze, err := exec.LookPath("systemd-analyze")
	if err != nil {
		t.Skip("systemd-analyze is not installed (Debian package systemd)")
	}
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	out, err := exec.Command(analyze, append([]string{"verify"}, unitFiles(t, self)...)...).CombinedOutput()
	if err != nil || strings.TrimSpace(string(out)) != "" {
		t.Fatalf("systemd-analyze verify: %v\n%s", err, out)
	}
}

// TestUnitsRunCommandsThatExist: what a unit starts is a verb of this program
// with flags that it knows.
func TestUnitsRunCommandsThatExist(t *testing.T) {
	root := newRoot(&app{out: screen.New(io.Discard, "stdout"), errOut: screen.New(io.Discard, "stderr"), env: os.LookupEnv})
	commands := 0
	for _, path := range unitFiles(t, "cocoon") {
		b, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		for line := range strings.Lines(string(b)) {
			start, ok := strings.CutPrefix(strings.TrimSpace(line), "ExecStart=cocoon ")
			if !ok {
				continue
			}
			commands++
			args := strings.Fields(strings.NewReplacer("%i", "web", "${COCOON_SNAPSHOT_MAX}", "7").Replace(start))
			c, rest, err := root.Find(args)
			if err != nil || c == root {
				t.Fatalf("%s: %q: no such command: %v", filepath.Base(path), start, err)
			}
			if err := c.ParseFlags(rest); err != nil {
				t.Errorf("%s: %q: %v", filepath.Base(path), start, err)
			}
			if err := c.ValidateArgs(c.Flags().Args()); err != nil {
				t.Errorf("%s: %q: %v", filepath.Base(path), start, err)
			}
		}
	}
	if commands != 2 {
		t.Errorf("%d commands found, want 2", commands)
	}
}
