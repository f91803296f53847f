package durable

import (
	"errors"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

func entries(t *testing.T, dir string) (names []string) {
	t.Helper()
	all, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range all {
		names = append(names, e.Name())
	}
	return names
}

func TestADraftBecomesAFileOrFolder(t *testing.T) {
	for name, begin := range map[string]func(string) (*Draft, error){"file": DraftFile, "folder": DraftDir} {
		t.Run(name, func(t *testing.T) {
			target := filepath.Join(t.TempDir(), "out")
			d, err := begin(target)
			if err != nil {
				t.Fatal(err)
			}
			other, err := begin(target)
			if err != nil {
				t.Fatal(err)
			}
			if err := errors.Join(d.Publish(), d.Drop()); err != nil {
				t.Fatal(err)
			}
			if err := other.Publish(); !errors.Is(err, os.ErrExist) {
				t.Errorf("the second one: %v", err)
			}
			if err := other.Drop(); err != nil {
				t.Error(err)
			}
			if got := entries(t, filepath.Dir(target)); len(got) != 1 || got[0] != "out" {
				t.Errorf("there are %q", got)
			}
			if fi, err := os.Stat(target); err != nil || fi.Mode().Perm()&0o077 != 0 {
				t.Errorf("%v, %v: others can read it", fi, err)
			}
			if _, err := begin(target); !errors.Is(err, os.ErrExist) {
				t.Errorf("over what is there: %v", err)
			}
		})
	}
}

// The child of the next test begins a file and a folder, and is killed.
func TestChildDrafts(t *testing.T) {
	dir := os.Getenv("DRAFT_TEST_DIR")
	if dir == "" {
		t.Skip("only runs as the child of TestDraftsOfTheDeadGoWithTheNext")
	}
	f, ferr := DraftFile(filepath.Join(dir, "file"))
	d, derr := DraftDir(filepath.Join(dir, "folder"))
	if err := errors.Join(ferr, derr); err != nil {
		t.Fatal(err)
	}
	err := errors.Join(os.WriteFile(filepath.Join(d.Path(), "part"), []byte("x"), 0o600), os.WriteFile(f.Path(), []byte("x"), 0o600))
	if err != nil {
		t.Fatal(err)
	}
	os.Stdout.WriteString("begun\n")
	select {}
}

func TestDraftsOfTheDeadGoWithTheNext(t *testing.T) {
	dir := t.TempDir()
	cmd := exec.Command(os.Args[0], "-test.run=^TestChildDrafts$")
	cmd.Env = append(os.Environ(), "DRAFT_TEST_DIR="+dir)
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	line := make([]byte, 6)
	if _, err := io.ReadFull(out, line); err != nil || string(line) != "begun\n" {
		t.Fatalf("child said %q, %v", line, err)
	}
	living, err := DraftFile(filepath.Join(dir, "mine"))
	if err != nil {
		t.Fatal(err)
	}
	defer living.Drop()
	if got := entries(t, dir); len(got) != 3 {
		t.Errorf("beside the living: %q, want three drafts", got)
	}
	cmd.Process.Kill()
	cmd.Wait()
	foreign := filepath.Join(dir, draftPrefix+"link")
	if err := os.Symlink("/etc", foreign); err != nil {
		t.Fatal(err)
	}
	next, err := DraftDir(filepath.Join(dir, "next"))
	if err != nil {
		t.Fatal(err)
	}
	defer next.Drop()
	got := entries(t, dir)
	if len(got) != 3 { // two that live, and what is none of ours
		t.Errorf("after the next: %q", got)
	}
}

// TestDraftsAreNotLookedForWhereOthersWrite: a name there says nothing of who
// made it.
func TestDraftsAreNotLookedForWhereOthersWrite(t *testing.T) {
	dir := t.TempDir()
	left := filepath.Join(dir, draftPrefix+"x")
	if err := errors.Join(os.Mkdir(left, 0o700), os.Chmod(dir, 0o777)); err != nil {
		t.Fatal(err)
	}
	d, err := DraftFile(filepath.Join(dir, "out"))
	if err != nil {
		t.Fatal(err)
	}
	if err := d.Drop(); err != nil {
		t.Fatal(err)
	}
	if got := strings.Join(entries(t, dir), " "); got != filepath.Base(left) {
		t.Errorf("there are %q", got)
	}
}
