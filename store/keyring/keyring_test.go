package keyring

import (
	"bytes"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/cocoonv2/cocoon/internal/base/failure"
)

// TestSubkeysAreThoseOfTheFormat: HKDF-SHA-256 of the bytes 0 to 31, computed
// by another implementation. A change here makes every snapshot unreadable.
func TestSubkeysAreThoseOfTheFormat(t *testing.T) {
	const (
		wantID  = "0def5a2ea0fcf62b"
		wantSub = "b22caf1a068fdae29676224372ab7aee2994968bba8fe3b2ef3b7b933b7c7c8a"
	)
	var secret [32]byte
	for i := range secret {
		secret[i] = byte(i)
	}
	k := FromSecret(secret)
	sub := k.Derive("cocoon pack frames", bytes.Repeat([]byte{0x5a}, 32))
	if got := k.ID().String() + " " + hex.EncodeToString(sub[:]); got != wantID+" "+wantSub {
		t.Errorf("got %s", got)
	}
}

func TestAKeyFileIsMadeOnceAndReadBack(t *testing.T) {
	path := filepath.Join(t.TempDir(), "key")
	k, err := Create(path)
	if err != nil {
		t.Fatal(err)
	}
	fi, err := os.Stat(path)
	if err != nil || fi.Mode() != 0o600 {
		t.Errorf("mode %v (%v)", fi.Mode(), err)
	}
	again, err := Load(path)
	if err != nil || again.secret != k.secret {
		t.Errorf("read back: %v, %v", again, err)
	}
	before, _ := os.ReadFile(path)
	if _, err := Create(path); !errors.Is(err, failure.Conflict) {
		t.Errorf("made twice: %v", err)
	}
	if after, _ := os.ReadFile(path); !bytes.Equal(before, after) {
		t.Error("the key was overwritten")
	}
	if other, err := Create(path + "2"); err != nil || other.id == k.id {
		t.Errorf("a second key is %v (%v)", other, err)
	}
}

func TestBadKeyFilesAreRefusedWithoutTellingThem(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "key")
	k, err := Create(path)
	if err != nil {
		t.Fatal(err)
	}
	good, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	secret := hex.EncodeToString(k.secret[:])
	flipped := "0"
	if secret[0] == '0' {
		flipped = "1"
	}
	text := string(good)
	for name, content := range map[string]string{
		"empty":         "",
		"comment":       "# nothing\n",
		"other file":    "-----BEGIN PRIVATE KEY-----\n" + secret,
		"short":         text[:len(text)-3],
		"a character":   strings.Replace(text, secret, flipped+secret[1:], 1),
		"two keys":      text + text,
		"a further one": strings.TrimSpace(text) + " x\n",
		"long":          text + strings.Repeat("#\n", 4096),
	} {
		bad := filepath.Join(dir, "bad")
		if err := os.WriteFile(bad, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
		_, err := Load(bad)
		if !errors.Is(err, failure.Usage) || strings.Contains(fmt.Sprintf("%v %+v", err, err), secret[2:20]) {
			t.Errorf("%s: %v", name, err)
		}
	}
	for _, mode := range []os.FileMode{0o640, 0o604, 0o660, 0o644} {
		if err := os.Chmod(path, mode); err != nil {
			t.Fatal(err)
		}
		if _, err := Load(path); !errors.Is(err, failure.Usage) || failure.HintOf(err) != "chmod 600 "+path {
			t.Errorf("mode %v: %v, hint %q", mode, err, failure.HintOf(err))
		}
	}
	fifo := filepath.Join(dir, "fifo")
	if err := unix.Mkfifo(fifo, 0o600); err != nil {
		t.Fatal(err)
	}
	for _, path := range []string{fifo, dir, filepath.Join(dir, "none")} {
		if _, err := Load(path); !errors.Is(err, failure.Usage) {
			t.Errorf("%s: %v", path, err)
		}
	}
}

func TestAKeyIsNeverPrinted(t *testing.T) {
	k := FromSecret([32]byte{0xab, 0xcd, 0xef, 1, 2, 3})
	for _, format := range []string{"%v", "%s", "%+v"} {
		if got := fmt.Sprintf(format, k); got != "key "+k.ID().String() {
			t.Errorf("%s gives %q", format, got)
		}
	}
}

func TestTheFirstFileSealsAndAllOpen(t *testing.T) {
	dir := t.TempDir()
	a, err1 := Create(filepath.Join(dir, "a"))
	b, err2 := Create(filepath.Join(dir, "b"))
	if err := errors.Join(err1, err2); err != nil {
		t.Fatal(err)
	}
	in := func(names ...string) *Ring {
		for i, n := range names {
			if n != Plain {
				names[i] = filepath.Join(dir, n)
			}
		}
		return NewRing(strings.Join(names, ":"))
	}
	for _, c := range []struct {
		ring     *Ring
		seals    *Key
		explicit bool
		opens    []*Key
	}{
		{nil, nil, false, nil},
		{NewRing(""), nil, false, nil},
		{NewRing("none"), nil, true, nil},
		{in("a"), a, true, []*Key{a}},
		{in("b", "a"), b, true, []*Key{a, b}},
		{in("none", "a"), nil, true, []*Key{a}},
	} {
		k, explicit, err := c.ring.Sealing()
		if err != nil || explicit != c.explicit || (k == nil) != (c.seals == nil) || k != nil && k.id != c.seals.id {
			t.Errorf("%+v seals with %v, %v (%v)", c.ring, k, explicit, err)
		}
		for _, k := range []*Key{a, b} {
			want := false
			for _, o := range c.opens {
				want = want || o == k
			}
			got, err := c.ring.Key(k.id)
			if want != (err == nil) || !want && !IsMissing(err) || want && got.id != k.id {
				t.Errorf("%+v opens %v: %v", c.ring, k, err)
			}
		}
	}
	if _, _, err := in("a", "missing").Sealing(); !errors.Is(err, failure.Usage) {
		t.Errorf("a list with a file that is missing: %v", err)
	}
}

func TestADocumentOpensAsWhatItWasSealedAs(t *testing.T) {
	k, other := FromSecret([32]byte{1}), FromSecret([32]byte{2})
	keys := FromKeys(k, other)
	plain := []byte(`{"registers":"of the guest"}`)
	b := k.Seal("state", plain)
	if bytes.Contains(b, []byte("guest")) || !bytes.Equal(b, k.Seal("state", plain)) || bytes.Equal(b, other.Seal("state", plain)) {
		t.Fatal("sealing is not what it should be")
	}
	if got, err := Open(keys, "state", b); err != nil || !bytes.Equal(got, plain) {
		t.Fatalf("%q, %v", got, err)
	}
	if _, err := Open(keys, "config", b); !errors.Is(err, failure.Damaged) {
		t.Errorf("opened as something else: %v", err)
	}
	if _, err := Open(FromKeys(other), "state", b); !IsMissing(err) || errors.Is(err, failure.Damaged) {
		t.Errorf("without its key: %v", err)
	}
	for at := range b {
		for bit := range 8 {
			bad := bytes.Clone(b)
			bad[at] ^= 1 << bit
			if _, err := Open(keys, "state", bad); err == nil {
				t.Fatalf("bit %d of byte %d flipped: it opened", bit, at)
			}
		}
	}
	for n := range b {
		if _, err := Open(keys, "state", b[:n]); !errors.Is(err, failure.Damaged) {
			t.Fatalf("cut at %d: %v", n, err)
		}
	}
}

func FuzzOpen(f *testing.F) {
	k := FromSecret([32]byte{1})
	keys := FromKeys(k)
	f.Add(k.Seal("state", []byte("{}")))
	f.Add([]byte(documentMagic))
	f.Fuzz(func(t *testing.T, b []byte) {
		plain, err := Open(keys, "state", b)
		if err == nil && !bytes.Equal(k.Seal("state", plain), b) {
			t.Error("opened, but sealed again it is another file")
		}
	})
}

func FuzzParse(f *testing.F) {
	f.Add(string(FromSecret([32]byte{1}).file()))
	f.Fuzz(func(t *testing.T, text string) {
		if k, err := parse(text); err == nil && !strings.Contains(text, k.id.String()) {
			t.Error("a key whose id does not stand in its file")
		}
	})
}
