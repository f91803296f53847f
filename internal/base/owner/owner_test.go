package owner

import (
	"encoding/json"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/cocoonv2/cocoon/internal/base/failure"
)

// given is a folder with an identity.
func given(t *testing.T) (root, id string) {
	t.Helper()
	root = filepath.Join(t.TempDir(), "root")
	if err := os.Mkdir(root, 0o700); err != nil {
		t.Fatal(err)
	}
	id, err := Give(root)
	if err != nil {
		t.Fatal(err)
	}
	return root, id
}

func readID(t *testing.T, root string) string {
	t.Helper()
	id, err := Read(root)
	if err != nil {
		t.Fatal(err)
	}
	return id
}

func TestAnIdentityStaysWithItsFolder(t *testing.T) {
	root, id := given(t)
	if again, err := Give(root); err != nil || again != id || len(id) != 32 {
		t.Errorf("given twice: %q and %q, %v", id, again, err)
	}
	moved := root + "-moved"
	if err := os.Rename(root, moved); err != nil {
		t.Fatal(err)
	}
	if got := readID(t, moved); got != id {
		t.Errorf("after a rename: %q", got)
	}
	link := root + "-link"
	if err := os.Symlink(moved, link); err != nil {
		t.Fatal(err)
	}
	if got := readID(t, link); got != id {
		t.Errorf("through a link: %q", got)
	}
	if os.Geteuid() != 0 {
		t.Skip("the rest needs root, for a bind mount")
	}
	if err := os.Mkdir(root, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := unix.Mount(moved, root, "", unix.MS_BIND, ""); err != nil {
		t.Skipf("no bind mounts here: %v", err)
	}
	defer unix.Unmount(root, unix.MNT_DETACH)
	if got := readID(t, root); got != id {
		t.Errorf("below another mount point: %q", got)
	}
}

func TestACopyHasNoIdentityAndGetsItsOwn(t *testing.T) {
	root, id := given(t)
	for _, how := range [][]string{{"cp", "-a"}, {"cp", "-a", "--reflink=auto"}, {"cp", "-al"}} {
		dir := t.TempDir()
		to := filepath.Join(dir, "copy")
		if out, err := exec.Command(how[0], append(how[1:], root, to)...).CombinedOutput(); err != nil {
			if strings.Contains(string(out), "cross-device") {
				t.Logf("%s: %s", how, out)
				continue
			}
			t.Fatalf("%s: %v: %s", how, err, out)
		}
		if got := readID(t, to); got != "" {
			t.Errorf("%s: the copy has %q", how, got)
		}
		own, err := Give(to)
		if err != nil || own == id || own == "" {
			t.Errorf("%s: the copy gets %q, %v", how, own, err)
		}
		if got := readID(t, root); got != id {
			t.Errorf("%s: the original has %q afterwards", how, got)
		}
	}
}

// TestFilesPutBackAreACopy into the very folder that they were taken from.
func TestFilesPutBackAreACopy(t *testing.T) {
	root, id := given(t)
	b, err := os.ReadFile(path(root))
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(os.Remove(path(root)), os.WriteFile(root+".keeps-the-inode", nil, 0o600), os.WriteFile(path(root), b, 0o600)); err != nil {
		t.Fatal(err)
	}
	if got := readID(t, root); got != "" {
		t.Errorf("what was put back has %q, as before: %t", got, got == id)
	}
}

func TestWhatIsNoIdentityIsNone(t *testing.T) {
	for name, make := range map[string]func(path string) error{
		"missing":  os.Remove,
		"empty":    func(p string) error { return os.Truncate(p, 0) },
		"torn":     func(p string) error { return os.Truncate(p, 20) },
		"a link":   func(p string) error { return errors.Join(os.Rename(p, p+".x"), os.Symlink(p+".x", p)) },
		"a folder": func(p string) error { return errors.Join(os.Remove(p), os.Mkdir(p, 0o700)) },
		"a fifo":   func(p string) error { return errors.Join(os.Remove(p), unix.Mkfifo(p, 0o600)) },
	} {
		root, _ := given(t)
		if err := make(path(root)); err != nil {
			t.Fatal(err)
		}
		if got := readID(t, root); got != "" {
			t.Errorf("%s: %q", name, got)
		}
	}
	if got := readID(t, filepath.Join(t.TempDir(), "none")); got != "" {
		t.Errorf("no folder: %q", got)
	}
}

func TestAMarkIsOwnedByItsStoreAlone(t *testing.T) {
	root, id := given(t)
	mine, err := At(root, id)
	if err != nil {
		t.Fatal(err)
	}
	with := func(change func(*Mark)) Mark { m := mine; change(&m); return m }
	for name, c := range map[string]struct {
		other Mark
		want  bool
	}{
		"itself":                        {mine, true},
		"moved":                         {with(func(m *Mark) { m.Root = "/elsewhere" }), true},
		"another id":                    {with(func(m *Mark) { m.Store = strings.Repeat("0", 32) }), false},
		"the same id on another device": {with(func(m *Mark) { m.Device++; m.Root = "/copy" }), false},
		"the same id in another folder": {with(func(m *Mark) { m.Inode++; m.Root = "/copy" }), false},
		"this folder, mounted anew":     {with(func(m *Mark) { m.Device++ }), true},
		"of another boot":               {with(func(m *Mark) { m.Boot, m.Device = "x", 7 }), true},
		"nobody's":                      {Mark{}, false},
	} {
		if got := mine.Owns(c.other); got != c.want {
			t.Errorf("%s: %t", name, got)
		}
		if (Mark{}).Owns(c.other) {
			t.Errorf("%s: a store without an id owns it", name)
		}
	}
	if other := with(func(m *Mark) { m.Device++ }); other.Tag() == mine.Tag() || !IsTag(mine.Tag()) {
		t.Errorf("tags %s and %s", mine.Tag(), other.Tag())
	}
	b, err := json.Marshal(mine)
	if err != nil {
		t.Fatal(err)
	}
	if back, err := Decode(b); err != nil || back != mine {
		t.Errorf("%+v became %+v, %v", mine, back, err)
	}
	for _, bad := range []string{"", "{}", `{"store":"../../x"}`, string(b[:len(b)-1])} {
		if m, err := Decode([]byte(bad)); !errors.Is(err, failure.Damaged) || m != (Mark{}) {
			t.Errorf("%q: %+v, %v", bad, m, err)
		}
	}
}

func TestAStoreIsGoneWhenItIsNotWhereItWas(t *testing.T) {
	root, id := given(t)
	mine, err := At(root, id)
	if err != nil || mine.Gone() {
		t.Fatalf("it is there: gone %t, %v", mine.Gone(), err)
	}
	if err := os.Rename(root, root+"-moved"); err != nil {
		t.Fatal(err)
	}
	if !mine.Gone() {
		t.Error("it was moved, and is not gone")
	}
	if err := os.Mkdir(root, 0o700); err != nil {
		t.Fatal(err)
	}
	if !mine.Gone() {
		t.Error("its folder is empty, and it is not gone")
	}
	if _, err := Give(root); err != nil || !mine.Gone() {
		t.Errorf("another store is there, and it is not gone: %v", err)
	}
}
