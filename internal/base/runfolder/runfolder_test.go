package runfolder

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/cocoonv2/cocoon/internal/base/durable"
	"github.com/cocoonv2/cocoon/internal/base/failure"
	"github.com/cocoonv2/cocoon/internal/base/owner"
)

// id of a VM.
var id = strings.Repeat("ab", 16)

var document = durable.Document{Name: "test", Limit: 100}

// storeOf is the mark of a store of its own.
func storeOf(t *testing.T) func(context.Context) (owner.Mark, error) {
	t.Helper()
	root := t.TempDir()
	given, err := owner.Give(root)
	if err != nil {
		t.Fatal(err)
	}
	m, err := owner.At(root, given)
	if err != nil {
		t.Fatal(err)
	}
	return func(context.Context) (owner.Mark, error) { return m, nil }
}

func mustMake(t *testing.T, f *Folder) *Entry {
	t.Helper()
	e, err := f.Make(t.Context(), id, nil)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { e.Close() })
	return e
}

func TestAnEntryIsItsStoresAlone(t *testing.T) {
	path := filepath.Join(t.TempDir(), "run")
	a, b := New(path, storeOf(t)), New(path, storeOf(t))
	made := mustMake(t, a)
	if err := made.Write(document, "vmm.json", []byte("a's")); err != nil || !made.Mine {
		t.Fatalf("mine %t, %v", made.Mine, err)
	}
	again := mustMake(t, a)
	if again.Mark != made.Mark {
		t.Errorf("made twice it is %v, then %v", made.Mark, again.Mark)
	}
	if _, err := b.Make(t.Context(), id, nil); !errors.Is(err, failure.Conflict) || !strings.Contains(err.Error(), made.Mark.Root) {
		t.Errorf("another store makes it: %v", err)
	}
	if taken, err := b.Remove(t.Context(), id, nil); taken || err != nil {
		t.Errorf("another store removes it: %t, %v", taken, err)
	}
	e, err := b.Look(t.Context(), id)
	if err != nil || e.Mine || e.Mark != made.Mark {
		t.Fatalf("another store sees %+v, %v", e, err)
	}
	e.Close()
	if got, err := made.Read(document, "vmm.json"); err != nil || string(got) != "a's" {
		t.Errorf("%q, %v", got, err)
	}
	if taken, err := a.Remove(t.Context(), id, nil); !taken || err != nil {
		t.Errorf("its own store removes it: %t, %v", taken, err)
	}
	if _, err := a.Look(t.Context(), id); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("removed, it is %v", err)
	}
}

// TestWhatHasNoMarkIsTakenOnlyWithLeave, unless there is nothing in it.
func TestWhatHasNoMarkIsTakenOnlyWithLeave(t *testing.T) {
	path := filepath.Join(t.TempDir(), "run")
	f := New(path, storeOf(t))
	if err := os.MkdirAll(f.Dir(id), 0o700); err != nil {
		t.Fatal(err)
	}
	if e := mustMake(t, f); !e.Mine {
		t.Error("an empty one is not mine")
	}
	for _, mark := range []string{"", "{", `{"store":"x"}`} {
		if err := errors.Join(os.WriteFile(filepath.Join(f.Dir(id), "owner"), []byte(mark), 0o600), os.WriteFile(filepath.Join(f.Dir(id), "vmm.log"), nil, 0o600)); err != nil {
			t.Fatal(err)
		}
		if _, err := f.Make(t.Context(), id, nil); !errors.Is(err, failure.Conflict) {
			t.Errorf("mark %q: %v", mark, err)
		}
		refusal := errors.New("no")
		if _, err := f.Make(t.Context(), id, func(*Entry) error { return refusal }); !errors.Is(err, refusal) {
			t.Errorf("mark %q, no leave: %v", mark, err)
		}
		e, err := f.Make(t.Context(), id, func(*Entry) error { return nil })
		if err != nil || !e.Mine {
			t.Fatalf("mark %q, with leave: %v", mark, err)
		}
		e.Close()
	}
}

// TestARunFolderOfOthersIsRefused by everything, with a remedy.
func TestARunFolderOfOthersIsRefused(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("only root can give folders away")
	}
	for name, c := range map[string]struct {
		spoil  func(run string) error
		remedy string
	}{
		"others may write":         {func(run string) error { return os.Chmod(run, 0o777) }, "chmod 700 "},
		"others may read":          {func(run string) error { return os.Chmod(run, 0o755) }, "chmod 700 "},
		"somebody else's":          {func(run string) error { return os.Chown(run, 65534, 0) }, "chown 0 "},
		"below somebody else's":    {func(run string) error { return os.Chown(filepath.Dir(run), 65534, 0) }, "chown root "},
		"below a writable one":     {func(run string) error { return os.Chmod(filepath.Dir(run), 0o777) }, "chmod go-w "},
		"a folder of other things": {func(run string) error { return errors.Join(os.Chmod(run, 0o755), os.Mkdir(run+"/lock", 0o755)) }, "--run-dir"},
		"everybody's": {func(run string) error {
			return errors.Join(os.Chmod(run, 0o777|fs.ModeSticky), os.Mkdir(run+"/x", 0o755))
		}, "choose a separate folder"},
		"somebody else's link": {func(run string) error {
			return errors.Join(os.Rename(run, run+"2"), os.Symlink(run+"2", run), os.Lchown(run, 65534, 0))
		}, "remove it"},
	} {
		t.Run(name, func(t *testing.T) {
			run := filepath.Join(t.TempDir(), "a", "run")
			if err := errors.Join(os.MkdirAll(run, 0o700), os.Chmod(filepath.Dir(run), 0o755), c.spoil(run)); err != nil {
				t.Fatal(err)
			}
			f := New(run, storeOf(t))
			_, looked := f.Look(t.Context(), id)
			_, made := f.Make(t.Context(), id, nil)
			_, listed := f.IDs()
			_, removed := f.Remove(t.Context(), id, nil)
			_, logged := f.Append("materialise.log")
			for what, err := range map[string]error{"check": f.Check(), "look": looked, "make": made, "list": listed, "remove": removed, "log": logged, "ensure": f.Ensure()} {
				if hint := failure.HintOf(err); !errors.Is(err, failure.Usage) || !strings.Contains(hint, c.remedy) {
					t.Errorf("%s: %v (hint %q)", what, err, hint)
				}
			}
		})
	}
}

func TestAnEntryOfSomebodyElseIsNotLookedInto(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("only root can give folders away")
	}
	f := New(filepath.Join(t.TempDir(), "run"), storeOf(t))
	if err := f.Ensure(); err != nil {
		t.Fatal(err)
	}
	elsewhere := t.TempDir()
	for name, make := range map[string]func() error{
		"his":     func() error { return errors.Join(os.Mkdir(f.Dir(id), 0o700), os.Chown(f.Dir(id), 65534, 0)) },
		"open":    func() error { return errors.Join(os.Mkdir(f.Dir(id), 0o700), os.Chmod(f.Dir(id), 0o777)) },
		"a link":  func() error { return os.Symlink(elsewhere, f.Dir(id)) },
		"no file": func() error { return os.WriteFile(f.Dir(id), nil, 0o600) },
	} {
		if err := errors.Join(os.RemoveAll(f.Dir(id)), make()); err != nil {
			t.Fatal(err)
		}
		_, looked := f.Look(t.Context(), id)
		_, made := f.Make(t.Context(), id, func(*Entry) error { return nil })
		_, removed := f.Remove(t.Context(), id, func(*Entry) error { return nil })
		for what, err := range map[string]error{"look": looked, "make": made, "remove": removed} {
			if !errors.Is(err, failure.Usage) || failure.HintOf(err) == "" {
				t.Errorf("%s, %s: %v", name, what, err)
			}
		}
	}
}

// TestFilesOfAnEntryAreNewOrRegular: a link that lies there is never followed.
func TestFilesOfAnEntryAreNewOrRegular(t *testing.T) {
	f := New(filepath.Join(t.TempDir(), "run"), storeOf(t))
	e := mustMake(t, f)
	victim := filepath.Join(t.TempDir(), "victim")
	plant := func(name string) {
		t.Helper()
		if err := errors.Join(os.WriteFile(victim, []byte("precious"), 0o600), e.Remove(name), os.Symlink(victim, e.Path(name))); err != nil {
			t.Fatal(err)
		}
	}
	intact := func(what string) {
		t.Helper()
		if b, err := os.ReadFile(victim); err != nil || string(b) != "precious" {
			t.Errorf("%s changed what a link names: %q, %v", what, b, err)
		}
	}
	plant("vmm.log")
	log, err := e.Create("vmm.log")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := log.WriteString("noise"); err != nil {
		t.Error(err)
	}
	log.Close()
	intact("create")
	plant("vmm.json")
	if err := e.Write(document, "vmm.json", []byte("{}")); err != nil {
		t.Error(err)
	}
	intact("write")
	for name, make := range map[string]func(path string) error{
		"a link":   func(p string) error { return os.Symlink(victim, p) },
		"a fifo":   func(p string) error { return unix.Mkfifo(p, 0o600) },
		"a folder": func(p string) error { return os.Mkdir(p, 0o700) },
	} {
		if err := errors.Join(os.RemoveAll(e.Path("serial.log")), make(e.Path("serial.log"))); err != nil {
			t.Fatal(err)
		}
		if _, err := e.Read(document, "serial.log"); !errors.Is(err, failure.Damaged) {
			t.Errorf("%s is read: %v", name, err)
		}
		if file, err := e.Open("serial.log"); !errors.Is(err, failure.Damaged) {
			file.Close()
			t.Errorf("%s is opened: %v", name, err)
		}
	}
}

func TestSocketsGoButThoseOfTheHost(t *testing.T) {
	f := New(filepath.Join(t.TempDir(), "run"), storeOf(t))
	e := mustMake(t, f)
	for _, name := range []string{"api-1.sock", "migration.sock", "vsock.sock", "vsock.sock_52", "vmm.log"} {
		if err := os.WriteFile(e.Path(name), nil, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if err := e.RemoveSockets("vsock.sock_"); err != nil {
		t.Fatal(err)
	}
	names, err := e.Names()
	if slices.Sort(names); err != nil || !slices.Equal(names, []string{"owner", "vmm.log", "vsock.sock_52"}) {
		t.Errorf("left %q, %v", names, err)
	}
	if with, err := f.Having("vmm.log"); err != nil || !slices.Equal(with, []string{id}) {
		t.Errorf("having: %q, %v", with, err)
	}
	if with, err := f.Having("none"); err != nil || len(with) > 0 {
		t.Errorf("having none: %q, %v", with, err)
	}
}

// TestAnEntryLivesWhileItsLogIsLocked, whoever locked it.
func TestAnEntryLivesWhileItsLogIsLocked(t *testing.T) {
	f := New(filepath.Join(t.TempDir(), "run"), storeOf(t))
	e := mustMake(t, f)
	lives := func(want bool) {
		t.Helper()
		if got, err := e.Lives(); err != nil || got != want {
			t.Errorf("lives %t, %v; want %t", got, err, want)
		}
	}
	lives(false)
	log, err := e.Create(LogFile)
	if err != nil {
		t.Fatal(err)
	}
	lives(false)
	if err := unix.Flock(int(log.Fd()), unix.LOCK_EX); err != nil {
		t.Fatal(err)
	}
	lives(true)
	log.Close()
	lives(false)
}

func TestAnEmptyEntryGoesAndComesBack(t *testing.T) {
	f := New(filepath.Join(t.TempDir(), "run"), storeOf(t))
	mustMake(t, f)
	if err := f.RemoveEmpty(id); err == nil {
		t.Error("one with a mark is taken for empty")
	}
	if err := errors.Join(os.Remove(filepath.Join(f.Dir(id), "owner")), f.RemoveEmpty(id)); err != nil {
		t.Error(err)
	}
	if e := mustMake(t, f); !e.Mine {
		t.Error("made again it is not mine")
	}
}

// TestAReadOnlyStoreMakesNoEntry: nobody could say whose it is.
func TestAReadOnlyStoreMakesNoEntry(t *testing.T) {
	f := New(filepath.Join(t.TempDir(), "run"), func(context.Context) (owner.Mark, error) { return owner.Mark{}, nil })
	if _, err := f.Make(t.Context(), id, nil); !errors.Is(err, failure.Incompatible) {
		t.Errorf("%v", err)
	}
	if ids, err := f.IDs(); err != nil || len(ids) > 0 {
		t.Errorf("there are %q, %v", ids, err)
	}
}
