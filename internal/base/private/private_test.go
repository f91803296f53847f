package private

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
)

// nobody is the user that folders of others belong to here.
const nobody = 65534

func needRoot(t *testing.T) {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("only root can give folders away")
	}
}

// tree makes the folders "a/b", "a/b/c" beside "elsewhere/b/c" and answers a's
// parent.
func tree(t *testing.T) string {
	t.Helper()
	top, err := Resolve(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	for _, dir := range []string{"a/b/c", "elsewhere/b/c"} {
		if err := os.MkdirAll(filepath.Join(top, dir), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	return top
}

func TestAWayThatOthersCanLeadElsewhereIsRefused(t *testing.T) {
	needRoot(t)
	for name, c := range map[string]struct {
		spoil func(top string) error
		path  string // "" is a/b/c
		at    string // what is named; "" is nothing: the way is safe
	}{
		"all is ours":                 {func(string) error { return nil }, "", ""},
		"others may read":             {func(top string) error { return os.Chmod(top+"/a", 0o755) }, "", ""},
		"others may write":            {func(top string) error { return os.Chmod(top+"/a", 0o777) }, "", "a"},
		"a group may write":           {func(top string) error { return errors.Join(os.Chown(top+"/a", 0, 50), os.Chmod(top+"/a", 0o775)) }, "", "a"},
		"the group of root may write": {func(top string) error { return os.Chmod(top+"/a", 0o775) }, "", ""},
		"sticky":                      {func(top string) error { return os.Chmod(top+"/a", 0o777|fs.ModeSticky) }, "", ""},
		"sticky, of somebody else": {func(top string) error {
			return errors.Join(os.Chmod(top+"/a", 0o777|fs.ModeSticky), os.Chown(top+"/a", nobody, 0))
		}, "", "a"},
		"of somebody else": {func(top string) error { return os.Chown(top+"/a/b", nobody, 0) }, "", "a/b"},
		"somebody else's, in a sticky one": {func(top string) error {
			return errors.Join(os.Chmod(top+"/a", 0o777|fs.ModeSticky), os.Chown(top+"/a/b", nobody, 0))
		}, "", "a/b"},
		"not there yet, all is ours":      {func(string) error { return nil }, "a/x/y", ""},
		"not there yet, others may write": {func(top string) error { return os.Chmod(top+"/a/b", 0o777) }, "a/b/x/y", "a/b"},
		"a link":                          {func(top string) error { return os.Symlink("a", top+"/l") }, "l/b/c", ""},
		"a link of somebody else":         {func(top string) error { return errors.Join(os.Symlink("a", top+"/l"), os.Lchown(top+"/l", nobody, 0)) }, "l/b/c", "l"},
		"a link in a folder of others": {func(top string) error {
			return errors.Join(os.Symlink("../../a/b/c", top+"/elsewhere/b/l"), os.Chmod(top+"/elsewhere/b", 0o777))
		}, "elsewhere/b/l", "elsewhere/b"},
		"a link to a folder of others": {func(top string) error {
			return errors.Join(os.Symlink("../../elsewhere/b", top+"/a/b/l"), os.Chmod(top+"/elsewhere/b", 0o777))
		}, "a/b/l/c", "elsewhere/b"},
	} {
		t.Run(name, func(t *testing.T) {
			top := tree(t)
			if err := c.spoil(top); err != nil {
				t.Fatal(err)
			}
			path := c.path
			if path == "" {
				path = "a/b/c"
			}
			_, err := Resolve(filepath.Join(top, path))
			var r *Refusal
			switch {
			case c.at == "" && err != nil:
				t.Errorf("refused: %v", err)
			case c.at != "" && !errors.As(err, &r):
				t.Errorf("%v, want a refusal", err)
			case c.at != "" && (r.Path != filepath.Join(top, c.at) || r.Remedy == ""):
				t.Errorf("%v (remedy %q), want %s named", err, r.Remedy, c.at)
			}
		})
	}
}

func TestAPathIsFollowedAsTheKernelDoes(t *testing.T) {
	top := tree(t)
	for link, to := range map[string]string{
		"one": "a/b", "two": "one/c", "abs": top + "/elsewhere", "a/b/up": "../../elsewhere/b", "a/b/over": "up/../b/c", "loop": "loop",
	} {
		if err := os.Symlink(to, filepath.Join(top, link)); err != nil {
			t.Fatal(err)
		}
	}
	for _, path := range []string{"a/b/c", "one", "two", "abs/b/c", "a/b/up", "a/b/over", "one/up/c", "one/", "a//b/./c"} {
		want, err := filepath.EvalSymlinks(filepath.Join(top, path))
		if err != nil {
			t.Fatal(err)
		}
		if got, err := Resolve(filepath.Join(top, path)); err != nil || got != want {
			t.Errorf("%s: %s, %v, want %s", path, got, err, want)
		}
	}
	if got, err := Resolve(filepath.Join(top, "one/x/y")); err != nil || got != filepath.Join(top, "a/b/x/y") {
		t.Errorf("what is missing behind a link: %s, %v", got, err)
	}
	if _, err := Resolve(filepath.Join(top, "loop")); !errors.Is(err, syscall.ELOOP) {
		t.Errorf("a loop: %v", err)
	}
	if err := os.WriteFile(filepath.Join(top, "file"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := Resolve(filepath.Join(top, "file/x")); !errors.Is(err, syscall.ENOTDIR) {
		t.Errorf("below a file: %v", err)
	}
}

func TestAFolderIsOursAloneOrRefused(t *testing.T) {
	needRoot(t)
	dir := tree(t) + "/a"
	for mode, want := range map[fs.FileMode]bool{0o700: true, 0o500: true, 0o710: false, 0o701: false, 0o755: false, 0o777 | fs.ModeSticky: false} {
		if err := os.Chmod(dir, mode); err != nil {
			t.Fatal(err)
		}
		err := Folder(dir, Others)
		var r *Refusal
		remedy := "chmod 700 " + dir
		if mode&fs.ModeSticky != 0 { // of everybody on purpose, such as /tmp
			remedy = "choose a separate folder, such as one below it"
		}
		if (err == nil) != want || err != nil && (!errors.As(err, &r) || r.Remedy != remedy) {
			t.Errorf("mode %s: %v", mode, err)
		}
	}
	if err := errors.Join(os.Chmod(dir, 0o700), os.Chown(dir, nobody, 0)); err != nil {
		t.Fatal(err)
	}
	if err := Folder(dir, Others); err == nil || !strings.Contains(err.Error(), "belongs to user 65534") {
		t.Errorf("somebody else's: %v", err)
	}
	link := filepath.Join(filepath.Dir(dir), "link")
	if err := os.Symlink("elsewhere", link); err != nil {
		t.Fatal(err)
	}
	if err := Folder(link, 0); err == nil {
		t.Error("a link is taken for a folder")
	}
	if err := Folder(dir+"/none", Others); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("missing: %v", err)
	}
}
