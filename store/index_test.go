package store

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/cocoonv2/cocoon/internal/base/failure"
	"github.com/cocoonv2/cocoon/internal/base/owner"
	"github.com/cocoonv2/cocoon/refs"
)

// TestASummaryIsEncodedAsItIs: what a listing says is JSON already is what would
// be encoded, also after a snapshot was renamed.
func TestASummaryIsEncodedAsItIs(t *testing.T) {
	s, err := Open(t.Context(), t.TempDir(), Options{Create: true})
	if err != nil {
		t.Fatal(err)
	}
	a := tiny(t, s, "a")
	age(t, &Snapshot{Dir: s.Path("snapshots", string(tiny(t, s, "b")))})
	for round, name := range []string{"a", "renamed", "again"} {
		if err := s.SetMeta(t.Context(), a, func(m *Meta) error { m.Name = name; return nil }); err != nil {
			t.Fatal(err)
		}
		age(t, &Snapshot{Dir: s.Path("snapshots", string(a))}) // else it is not remembered
		known := 0
		for range 2 {
			all, err := s.Index().Summaries(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			known = 0
			for _, x := range all {
				text, err := json.Marshal(x)
				if err != nil {
					t.Fatal(err)
				}
				if x.Encoded() != "" && x.Encoded() != string(text) {
					t.Errorf("round %d: %s, want %s", round, x.Encoded(), text)
				}
				if x.ID == a && x.Name != name {
					t.Errorf("round %d: %q is listed, the name is %q", round, x.Name, name)
				}
				if x.Encoded() != "" {
					known++
				}
			}
		}
		if known != 2 {
			t.Errorf("round %d: %d of 2 are known in the second listing", round, known)
		}
	}
}

// TestAListIsTheSameWhateverBecameOfTheIndex: lost, of another day, another store's,
// locked, torn, or with any bit another one.
func TestAListIsTheSameWhateverBecameOfTheIndex(t *testing.T) {
	s, other := openTest(t), openTest(t)
	a, b := tiny(t, s, "a"), tiny(t, s, "b")
	for _, id := range []ID{a, b, tiny(t, other, "c")} {
		st := map[bool]*Store{true: s, false: other}[id == a || id == b]
		age(t, &Snapshot{Dir: st.Path("snapshots", string(id))})
	}
	list := func(st *Store) string {
		t.Helper()
		all, err := st.Index().Summaries(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		text, err := json.Marshal(all)
		if err != nil {
			t.Fatal(err)
		}
		return string(text)
	}
	list(other)
	list(s)
	old, err := os.ReadFile(s.Path("refs.db"))
	if err != nil {
		t.Fatal(err)
	}
	if err := s.SetMeta(t.Context(), a, func(m *Meta) error { m.Name = "renamed"; return nil }); err != nil {
		t.Fatal(err)
	}
	if err := s.Remove(t.Context(), b, RemoveOptions{}); err != nil {
		t.Fatal(err)
	}
	d := tiny(t, s, "d")
	if err := os.Remove(s.Path("refs.db")); err != nil {
		t.Fatal(err)
	}
	want := list(s)
	for _, name := range []string{"renamed", string(d)} {
		if !strings.Contains(want, name) {
			t.Fatalf("%s is not in %s", name, want)
		}
	}
	foreign, err := os.ReadFile(other.Path("refs.db"))
	if err != nil {
		t.Fatal(err)
	}
	harms := map[string]func() error{
		"lost":      func() error { return os.RemoveAll(s.Path("refs.db")) },
		"stale":     func() error { return os.WriteFile(s.Path("refs.db"), old, 0o600) },
		"another's": func() error { return os.WriteFile(s.Path("refs.db"), foreign, 0o600) },
		"torn":      func() error { return os.WriteFile(s.Path("refs.db"), old[:len(old)/2], 0o600) },
		"noise":     func() error { return os.WriteFile(s.Path("refs.db"), []byte("[{"), 0o600) },
		"a lie": func() error {
			return refs.Write(s.Path("refs.db"), identity(t, s), []refs.Row{{Key: string(a), Value: []byte{1, 0xff}}}, nil)
		},
		"a link": func() error {
			return errors.Join(os.RemoveAll(s.Path("refs.db")), os.Symlink("/dev/zero", s.Path("refs.db")))
		},
		"unwritable": func() error { return errors.Join(os.RemoveAll(s.Path("refs.db")), os.Mkdir(s.Path("refs.db"), 0o700)) },
	}
	for what, harm := range harms {
		if err := harm(); err != nil {
			t.Fatal(err)
		}
		for range 2 {
			if got := list(s); got != want {
				t.Errorf("%s: %s, want %s", what, got, want)
			}
		}
		if err := os.RemoveAll(s.Path("refs.db")); err != nil {
			t.Fatal(err)
		}
	}
	age(t, &Snapshot{Dir: s.Path("snapshots", string(a))})
	age(t, &Snapshot{Dir: s.Path("snapshots", string(d))})
	list(s)
	now, err := os.ReadFile(s.Path("refs.db"))
	if err != nil {
		t.Fatal(err)
	}
	for i := 0; i < len(now); i += 97 {
		flipped := bytes.Clone(now)
		flipped[i] ^= 1 << (i % 8)
		if err := os.WriteFile(s.Path("refs.db"), flipped, 0o600); err != nil {
			t.Fatal(err)
		}
		if got := list(s); got != want {
			t.Fatalf("byte %d: %s, want %s", i, got, want)
		}
	}
}

// TestWhatCouldNotBeReadIsAskedAgain: neither damage nor a key that was missing is
// remembered by the index.
func TestWhatCouldNotBeReadIsAskedAgain(t *testing.T) {
	s := openTest(t)
	sn := mustPublish(t, s, "here", make([]byte, 1<<20))
	age(t, sn)
	config := s.BlobPath(sn.Manifest.Config.Digest)
	state := func() string {
		t.Helper()
		all, err := s.Index().Summaries(t.Context())
		if err != nil || len(all) != 1 {
			t.Fatal(all, err)
		}
		return fmt.Sprintf("%s %v", all[0].State, all[0].Memory.ZeroBytes > 0)
	}
	if err := os.Rename(config, config+".aside"); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		if got := state(); got != "damaged false" {
			t.Errorf("without its config: %s", got)
		}
	}
	if err := os.Rename(config+".aside", config); err != nil {
		t.Fatal(err)
	}
	if got := state(); got != "ready true" {
		t.Errorf("with it again: %s", got)
	}
}

// identity of a store, as its index has it.
func identity(t *testing.T, s *Store) string {
	t.Helper()
	id, err := owner.Read(s.Root())
	if err != nil || id == "" {
		t.Fatalf("identity %q, %v", id, err)
	}
	return id
}

// TestAListSeesWhatBecameOfTheFiles of a snapshot, whatever their mtime says: the list
// by the index is the one of no index, and nothing is left out of it.
func TestAListSeesWhatBecameOfTheFiles(t *testing.T) {
	inPlace := func(path string, change func(string) string) error {
		fi, err := os.Stat(path)
		if err != nil {
			return err
		}
		text, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		return errors.Join(os.WriteFile(path, []byte(change(string(text))), 0o600), os.Chtimes(path, fi.ModTime(), fi.ModTime()))
	}
	garble := func(text string) string { return strings.Repeat("x", len(text)) }
	link := func(path string) error {
		return errors.Join(os.Rename(path, path+".aside"), os.Symlink(path+".aside", path))
	}
	for name, c := range map[string]struct {
		harm func(dir string) error
		want string
	}{
		"renamed in place": {func(dir string) error {
			return inPlace(dir+"/meta.json", func(text string) string { return strings.Replace(text, `"here"`, `"gone"`, 1) })
		}, "gone ready"},
		"meta garbled":     {func(dir string) error { return inPlace(dir+"/meta.json", garble) }, " damaged"},
		"meta a link":      {func(dir string) error { return link(dir + "/meta.json") }, " damaged"},
		"manifest garbled": {func(dir string) error { return inPlace(dir+"/manifest.json", garble) }, "here damaged"},
		"no manifest":      {func(dir string) error { return os.Remove(dir + "/manifest.json") }, "here damaged"},
		"manifest a link":  {func(dir string) error { return link(dir + "/manifest.json") }, "here damaged"},
		"an empty folder": {func(dir string) error {
			return errors.Join(os.Remove(dir+"/manifest.json"), os.Remove(dir+"/meta.json"))
		}, " damaged"},
		"no folder but a file": {func(dir string) error {
			return errors.Join(os.Rename(dir, dir+".aside"), os.WriteFile(dir, nil, 0o600))
		}, " damaged"},
	} {
		t.Run(name, func(t *testing.T) {
			s := openTest(t)
			sn := mustPublish(t, s, "here", make([]byte, 1<<20))
			age(t, sn)
			list := func() string {
				t.Helper()
				all, err := s.Index().Summaries(t.Context())
				if err != nil || len(all) != 1 {
					t.Fatalf("%+v, %v", all, err)
				}
				text, err := json.Marshal(all)
				if err != nil {
					t.Fatal(err)
				}
				return all[0].Name + " " + string(all[0].State) + "\n" + string(text)
			}
			list()
			if err := c.harm(sn.Dir); err != nil {
				t.Fatal(err)
			}
			warm := list()
			if err := os.Remove(s.Path("refs.db")); err != nil {
				t.Fatal(err)
			}
			if cold := list(); warm != cold {
				t.Errorf("%s by the index, %s without", warm, cold)
			}
			if got, _, _ := strings.Cut(warm, "\n"); got != c.want {
				t.Errorf("%q, want %q", got, c.want)
			}
			if strings.HasSuffix(c.want, "damaged") {
				if err := s.Remove(t.Context(), sn.ID, RemoveOptions{Force: true}); err != nil {
					t.Errorf("rm --force: %v", err)
				}
			}
		})
	}
}

// TestARebuiltIndexIsOfToday: it says nothing of what the one before said and the
// snapshots do not.
func TestARebuiltIndexIsOfToday(t *testing.T) {
	s := openTest(t)
	sn := mustPublish(t, s, "here", make([]byte, 1<<20))
	age(t, sn)
	state := func() State {
		t.Helper()
		all, err := s.Index().Summaries(t.Context())
		if err != nil || len(all) != 1 {
			t.Fatal(all, err)
		}
		return all[0].State
	}
	state()
	if err := os.Remove(s.BlobPath(sn.Manifest.Config.Digest)); err != nil {
		t.Fatal(err)
	}
	if err := s.Index().Rebuild(t.Context()); err != nil {
		t.Fatal(err)
	}
	if got := state(); got != Damaged {
		t.Errorf("rebuilt: %s", got)
	}
}

// TestARowOfAFormerProgramIsReadAnew and is no error.
func TestARowOfAFormerProgramIsReadAnew(t *testing.T) {
	s := openTest(t)
	sn := mustPublish(t, s, "here", make([]byte, 1<<20))
	age(t, sn)
	for _, former := range []byte{0, 1} {
		err := refs.Write(s.Path("refs.db"), identity(t, s), []refs.Row{{Key: string(sn.ID), Value: []byte{former, 1, 2, 3, 4}}}, nil)
		all, lerr := s.Index().Summaries(t.Context())
		if err := errors.Join(err, lerr); err != nil || len(all) != 1 || all[0].Name != "here" {
			t.Errorf("%+v, %v", all, err)
		}
		if _, ok := s.Index().Known(sn.ID); !ok {
			t.Error("it is not remembered as of today")
		}
	}
}

// TestARebuildThatCannotWriteKeepsTheIndex, and says so.
func TestARebuildThatCannotWriteKeepsTheIndex(t *testing.T) {
	root := t.TempDir() + "/root"
	if err := os.Mkdir(root, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := unix.Mount("tmpfs", root, "tmpfs", 0, "size=8m,mode=700"); err != nil {
		t.Skipf("cannot mount a tmpfs here: %v", err)
	}
	t.Cleanup(func() { _ = unix.Unmount(root, unix.MNT_DETACH) })
	s, err := Open(t.Context(), root, Options{Create: true, Veto: free})
	if err != nil {
		t.Fatal(err)
	}
	age(t, mustPublish(t, s, "here", make([]byte, 1<<20)))
	if err := s.Index().Rebuild(t.Context()); err != nil {
		t.Fatal(err)
	}
	was, err := os.ReadFile(s.Path("refs.db"))
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(s.Path("filler"), make([]byte, 16<<20), 0o600); !errors.Is(err, unix.ENOSPC) {
		t.Fatalf("filling the disk: %v", err)
	}
	if err := s.Index().Rebuild(t.Context()); !errors.Is(err, unix.ENOSPC) {
		t.Errorf("rebuild: %v", err)
	}
	if now, err := os.ReadFile(s.Path("refs.db")); err != nil || !bytes.Equal(now, was) {
		t.Errorf("it is another one: %v", err)
	}
}

// TestWhatIsNoFileGivesWayToTheIndex, or the error says what to remove.
func TestWhatIsNoFileGivesWayToTheIndex(t *testing.T) {
	s := openTest(t)
	path := s.Path("refs.db")
	for what, put := range map[string]func() error{
		"a link":          func() error { return os.Symlink("/dev/zero", path) },
		"an empty folder": func() error { return os.Mkdir(path, 0o700) },
		"a pipe":          func() error { return unix.Mkfifo(path, 0o600) },
	} {
		if err := errors.Join(os.RemoveAll(path), put(), s.Index().Rebuild(t.Context()), s.Index().Check()); err != nil {
			t.Errorf("%s: %v", what, err)
		}
	}
	if err := errors.Join(os.Remove(path), os.MkdirAll(path+"/sub", 0o700)); err != nil {
		t.Fatal(err)
	}
	if err := s.Index().Rebuild(t.Context()); !errors.Is(err, failure.Damaged) || !strings.Contains(err.Error(), "rm -r "+path) {
		t.Errorf("a folder that is not empty: %v", err)
	}
}
