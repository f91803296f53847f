package account

import (
	"bytes"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/cocoonv2/cocoon/internal/base/failure"
)

func sample() *Account {
	a := Begin(time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC))
	a.Made = a.New
	a.Folders["snapshots"] = Place{Inode: 7, Born: 8, Group: 1}
	a.Snapshots["0123456789abcdef0123456789abcdef"] = "nightly"
	a.Roots["images/base.json"] = Root{Kind: "image", ID: "base"}
	a.Roots["vms/fedcba9876543210fedcba9876543210/suspend.json"] = Root{"suspended vm", "fedcba9876543210fedcba9876543210", "web", 3}
	a.Doubtful["vm/fedcba9876543210fedcba9876543210"] = a.New
	return a
}

func TestAnAccountIsReadAsItWasWritten(t *testing.T) {
	dir, want := t.TempDir(), sample()
	if _, err := Read(dir); !errors.Is(err, ErrNone) {
		t.Errorf("none: %v", err)
	}
	if err := want.Write(dir); err != nil {
		t.Fatal(err)
	}
	got, err := Read(dir)
	if d := cmp.Diff(want, got); err != nil || d != "" {
		t.Errorf("read back: %v (-want +got):\n%s", err, d)
	}
	if !got.Says(want) || got.Says(Begin(want.New)) {
		t.Error("an account says what it says, and nothing else")
	}
	if err := Begin(time.Time{}).Found(dir); err != nil {
		t.Error(err)
	}
	if got, err := Read(dir); err != nil || len(got.Roots) != 2 {
		t.Errorf("founded anew: %+v, %v", got, err)
	}
	if left, _ := os.ReadDir(dir); len(left) != 1 {
		t.Errorf("left %v", left)
	}
}

// TestADamagedAccountIsNone: no flipped bit makes a root that was never there.
func TestADamagedAccountIsNone(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, File)
	if err := sample().Write(dir); err != nil {
		t.Fatal(err)
	}
	whole, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	bad := map[string][]byte{"empty": {}, "torn": whole[:len(whole)/2], "null": []byte("null"), "zeros": make([]byte, 100)}
	for range 300 {
		b := bytes.Clone(whole)
		at, bit := rand.IntN(len(b)), rand.IntN(8)
		b[at] ^= 1 << bit
		bad[fmt.Sprintf("bit %d of byte %d flipped", bit, at)] = b
	}
	want := sample()
	for name, b := range bad {
		if err := os.WriteFile(path, b, 0o600); err != nil {
			t.Fatal(err)
		}
		got, err := Read(dir)
		if err == nil && cmp.Equal(got, want) {
			continue // a letter of a key in another case is the same key
		}
		if !errors.Is(err, ErrNone) {
			t.Errorf("%s: %+v, %v", name, got, err)
		}
	}
}

func TestTheAccountOfANewerProgramIsNotOverlooked(t *testing.T) {
	dir := t.TempDir()
	for _, text := range []string{`{"version":2}`, `{"version":1,"volumes":{}}`} {
		b := fmt.Appendf(nil, `{"sum":%q,"account":%s}`, sum([]byte(text)), text)
		if err := os.WriteFile(filepath.Join(dir, File), b, 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := Read(dir); !errors.Is(err, failure.Damaged) || errors.Is(err, ErrNone) {
			t.Errorf("%s: %v", text, err)
		}
	}
}

// TestAFolderIsKnownAgain after what leaves it the same, and not after what puts
// another one in its place.
func TestAFolderIsKnownAgain(t *testing.T) {
	root := t.TempDir()
	at := func(name string) string { return filepath.Join(root, name) }
	look := func() (Place, bool) {
		t.Helper()
		places, err := Places(root, []string{"f"})
		if err != nil {
			t.Fatal(err)
		}
		p, there := places["f"]
		return p, there
	}
	if err := os.Mkdir(at("f"), 0o700); err != nil {
		t.Fatal(err)
	}
	was, _ := look()
	for _, same := range []func() error{
		func() error { return os.WriteFile(at("f/x"), nil, 0o600) },
		func() error { return os.Chmod(at("f"), 0o755) },
		func() error { return errors.Join(os.Rename(at("f"), at("g")), os.Rename(at("g"), at("f"))) },
	} {
		if err := same(); err != nil {
			t.Fatal(err)
		}
		if now, there := look(); Differs("f", was, now, there) != "" {
			t.Errorf("%s", Differs("f", was, now, there))
		}
	}
	for _, step := range []struct {
		name string
		do   func() error
	}{
		{"moved away", func() error { return os.Rename(at("f"), at("g")) }},
		{"recreated", func() error { return os.Mkdir(at("f"), 0o700) }},
		{"a file", func() error { return errors.Join(os.Remove(at("f")), os.WriteFile(at("f"), nil, 0o600)) }},
		{"a link to it", func() error { return errors.Join(os.Remove(at("f")), os.Symlink("g", at("f"))) }},
	} {
		if err := step.do(); err != nil {
			t.Fatal(err)
		}
		if now, there := look(); Differs("f", was, now, there) == "" {
			t.Errorf("%s: it is taken for the same", step.name)
		}
	}
}
