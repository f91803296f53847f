package durable

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"testing"

	"github.com/cocoonv2/cocoon/internal/base/failure"
)

// TestADocumentIsReadBackOrNotWritten, of whatever length.
func TestADocumentIsReadBackOrNotWritten(t *testing.T) {
	d := Document{Name: "test", Limit: 100}
	for n := range 120 {
		path, data := filepath.Join(t.TempDir(), "x"), bytes.Repeat([]byte("x"), n)
		staged, serr := d.Stage(path, data, 0o600)
		if err := errors.Join(serr, staged.Drop()); (err == nil) != (n <= 100) {
			t.Errorf("%d bytes staged: %v", n, err)
		}
		err := d.Write(path, data, 0o600)
		if err == nil {
			got, rerr := d.Read(path)
			if rerr != nil || !bytes.Equal(got, data) {
				t.Errorf("%d bytes were written, and read back: %d bytes, %v", n, len(got), rerr)
			}
			continue
		}
		if left := names(t, filepath.Dir(path)); !errors.Is(err, failure.Usage) || n <= 100 || len(left) > 0 {
			t.Errorf("%d bytes: %v; left %v", n, err, left)
		}
	}
}

// TestAWriteThatIsRefusedKeepsTheOldFile.
func TestAWriteThatIsRefusedKeepsTheOldFile(t *testing.T) {
	d, path := Document{Limit: 3}, filepath.Join(t.TempDir(), "x")
	if err := d.Write(path, []byte("old"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := d.Write(path, []byte("longer"), 0o600); !errors.Is(err, failure.Usage) {
		t.Errorf("too long: %v", err)
	}
	if b, err := os.ReadFile(path); err != nil || string(b) != "old" {
		t.Errorf("afterwards it holds %q, %v", b, err)
	}
}

func TestDecodeAllTakesAllOrNothing(t *testing.T) {
	type nested struct {
		B []struct{ C int } `json:"b"`
	}
	for text, ok := range map[string]bool{
		`{"b":[{"c":1}]}`:         true,
		`{}`:                      true,
		" {\"b\":null}\n":         true,
		`{"b":[{"c":1,"d":"x"}]}`: false,
		`{"a":1}`:                 false,
		`{} {}`:                   false,
		`{}]`:                     false,
		`{`:                       false,
		``:                        false,
		`[]`:                      false,
	} {
		if err := DecodeAll([]byte(text), &nested{}); (err == nil) != ok {
			t.Errorf("%q: %v, taken is to be %v", text, err, ok)
		}
	}
}
