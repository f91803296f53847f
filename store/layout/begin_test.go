package layout

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/cocoonv2/cocoon/internal/base/failure"
)

// emptied is a folder of the test, 0700.
func emptied(t *testing.T) string {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "root")
	if err := os.Mkdir(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	return dir
}

// TestReadingMakesNoStore where there is none, whatever the folder is.
func TestReadingMakesNoStore(t *testing.T) {
	dir := emptied(t)
	for _, root := range []string{filepath.Join(dir, "none"), dir} {
		_, err := Open(t.Context(), root, false)
		if !errors.Is(err, failure.NotFound) || !strings.Contains(failure.HintOf(err), "cocoon system init") {
			t.Errorf("%s: %v (hint %q)", root, err, failure.HintOf(err))
		}
	}
	if left, err := os.ReadDir(dir); err != nil || len(left) > 0 {
		t.Errorf("left: %v, %v", left, err)
	}
}

// TestAStoreIsMadeOfWhatAnEmptyFolderHas: a new file system, or a process that
// died while it made a store.
func TestAStoreIsMadeOfWhatAnEmptyFolderHas(t *testing.T) {
	for name, make := range map[string]func(dir string) error{
		"nothing":     func(string) error { return nil },
		"lost+found":  func(dir string) error { return os.Mkdir(filepath.Join(dir, "lost+found"), 0o700) },
		"a died one":  func(dir string) error { return os.WriteFile(filepath.Join(dir, ".tmp-format-1"), nil, 0o600) },
		"an identity": func(dir string) error { return os.WriteFile(filepath.Join(dir, "identity"), []byte("{"), 0o600) },
	} {
		dir := emptied(t)
		if err := make(dir); err != nil {
			t.Fatal(err)
		}
		if _, err := Open(t.Context(), dir, true); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
	dir := emptied(t)
	if err := os.WriteFile(filepath.Join(dir, "thesis.tex"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for _, create := range []bool{true, false} {
		if _, err := Open(t.Context(), dir, create); !errors.Is(err, failure.Incompatible) {
			t.Errorf("somebody's folder, create %t: %v", create, err)
		}
	}
}

func TestOneOfManyMakesTheStore(t *testing.T) {
	for round := range 20 {
		dir := filepath.Join(t.TempDir(), fmt.Sprint(round))
		ids, errs := make([]string, 8), make([]error, 8)
		var all sync.WaitGroup
		for i := range ids {
			all.Go(func() {
				var s *Layout
				if s, errs[i] = Open(t.Context(), dir, true); errs[i] == nil {
					m, err := s.Owner(t.Context())
					ids[i], errs[i] = m.Store, err
				}
			})
		}
		all.Wait()
		if err := errors.Join(errs...); err != nil {
			t.Fatal(err)
		}
		for _, id := range ids {
			if id != ids[0] || id == "" {
				t.Fatalf("ids %q", ids)
			}
		}
	}
}

// TestAStoreMayBeALink to where it lies, if nobody else can exchange the link.
func TestAStoreMayBeALink(t *testing.T) {
	dir := t.TempDir()
	lies, link := filepath.Join(dir, "data", "cocoon"), filepath.Join(dir, "lib", "cocoon")
	if err := errors.Join(os.MkdirAll(lies, 0o700), os.Mkdir(filepath.Dir(link), 0o755), os.Symlink("../data/cocoon", link)); err != nil {
		t.Fatal(err)
	}
	for _, root := range []string{link, link + "/"} {
		s, err := Open(t.Context(), root, true)
		if err != nil || s.Root() != lies {
			t.Fatalf("%s: %v", root, err)
		}
	}
	if err := os.Chmod(lies, 0o755); err != nil {
		t.Fatal(err)
	}
	_, err := Open(t.Context(), link, false)
	if !errors.Is(err, failure.Incompatible) || !strings.Contains(failure.HintOf(err), "chmod 700 "+lies) {
		t.Errorf("behind the link it is open to others: %v (hint %q)", err, failure.HintOf(err))
	}
	if mended, err := MakePrivate(link); err != nil || len(mended) != 1 || mended[0] != lies {
		t.Errorf("mended %q, %v", mended, err)
	}
	if err := os.Chmod(filepath.Dir(link), 0o777); err != nil {
		t.Fatal(err)
	}
	_, err = Open(t.Context(), link, false)
	if !errors.Is(err, failure.Incompatible) || !strings.Contains(failure.HintOf(err), "chmod go-w "+filepath.Dir(link)) {
		t.Errorf("the folder of the link can be written to by others: %v (hint %q)", err, failure.HintOf(err))
	}
}

// TestAFolderOfEverybodyIsNotToBeClosed: the remedy for /tmp is another folder.
func TestAFolderOfEverybodyIsNotToBeClosed(t *testing.T) {
	dir := emptied(t)
	if err := os.Chmod(dir, 0o777|os.ModeSticky); err != nil {
		t.Fatal(err)
	}
	_, err := Open(t.Context(), dir, true)
	if hint := failure.HintOf(err); !errors.Is(err, failure.Incompatible) || strings.Contains(hint, "chmod") || hint == "" {
		t.Errorf("%v (hint %q)", err, hint)
	}
}

// TestACopyIsAnotherStore as soon as somebody asks, and the original stays itself;
// one that cannot be written owns nothing.
func TestACopyIsAnotherStore(t *testing.T) {
	root := filepath.Join(t.TempDir(), "root")
	open := func(root string) *Layout {
		t.Helper()
		s, err := Open(t.Context(), root, true)
		if err != nil {
			t.Fatal(err)
		}
		return s
	}
	mark := func(root string) string {
		t.Helper()
		m, err := open(root).Owner(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		return m.Store
	}
	id := mark(root)
	copied := root + "-copy"
	if out, err := exec.Command("cp", "-a", root, copied).CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	if other := mark(copied); other == id || other == "" || other != mark(copied) {
		t.Errorf("the copy is %q, the original %q", other, id)
	}
	if got := mark(root); got != id {
		t.Errorf("the original became %q", got)
	}
	if err := os.Remove(filepath.Join(root, "identity")); err != nil { // as older programs made stores
		t.Fatal(err)
	}
	if given := mark(root); given == "" || given != mark(root) {
		t.Errorf("a store without one gets %q", given)
	}
	view := filepath.Join(t.TempDir(), "view")
	if err := errors.Join(os.Remove(filepath.Join(copied, "identity")), os.Mkdir(view, 0o700)); err != nil {
		t.Fatal(err)
	}
	if err := unix.Mount(copied, view, "", unix.MS_BIND, ""); err != nil {
		t.Skipf("no bind mount here: %v", err)
	}
	defer unix.Unmount(view, unix.MNT_DETACH)
	if err := unix.Mount("", view, "", unix.MS_BIND|unix.MS_REMOUNT|unix.MS_RDONLY, ""); err != nil {
		t.Fatal(err)
	}
	if m, err := open(view).Owner(t.Context()); err != nil || m.Store != "" {
		t.Errorf("read-only: %+v, %v", m, err)
	}
}
