package refs

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/cocoonv2/cocoon/internal/base/failure"
)

const me = "0123456789abcdef0123456789abcdef"

// made gives an index of n rows of some size.
func made(t testing.TB, n, size int) (path string, want map[string]string) {
	t.Helper()
	path, want = filepath.Join(t.TempDir(), "refs.db"), map[string]string{}
	var rows []Row
	for i := range n {
		r := Row{fmt.Sprintf("%032x", i), bytes.Repeat([]byte{byte(i)}, size)}
		rows, want[r.Key] = append(rows, r), string(r.Value)
	}
	if err := Write(path, me, rows, []byte("first")); err != nil {
		t.Fatal(err)
	}
	return path, want
}

// read gives all rows, nil where the index is not to be trusted.
func read(t testing.TB, path, owner string) map[string]string {
	t.Helper()
	x, err := Open(path, owner)
	if err != nil {
		if !errors.Is(err, failure.Damaged) && !errors.Is(err, os.ErrNotExist) {
			t.Errorf("open: %v", err)
		}
		return nil
	}
	defer x.Close()
	got := map[string]string{}
	for k, v := range x.Rows() {
		got[string(k)] = string(v)
	}
	return got
}

// notes gives all notes, nil where they are not to be trusted.
func notes(t testing.TB, path, owner string) []string {
	t.Helper()
	n, err := ReadNotes(path, owner)
	if err != nil {
		if !errors.Is(err, failure.Damaged) && !errors.Is(err, os.ErrNotExist) {
			t.Errorf("notes: %v", err)
		}
		return nil
	}
	var all []string
	for _, note := range n.All {
		all = append(all, string(note))
	}
	return all
}

func TestWhatWasWrittenIsRead(t *testing.T) {
	for _, n := range []int{0, 1, 3, 5000} {
		path, want := made(t, n, 700)
		said := []string{"first"}
		for _, note := range []string{"one", "two", "", "\x00"} {
			if got := read(t, path, me); !maps.Equal(got, want) {
				t.Errorf("of %d rows %d are read", n, len(got))
			}
			if got := notes(t, path, me); !slices.Equal(got, said) {
				t.Errorf("notes %q, want %q", got, said)
			}
			if err := Append(path, me, []byte(note)); err != nil {
				t.Fatal(err)
			}
			said = append(said, note)
		}
		if n, err := ReadNotes(path, me); err != nil || n.Appended != 4*noteBytes+7 {
			t.Errorf("%d bytes were appended, %v", n.Appended, err)
		}
	}
}

// TestEachFlippedBitIsFound: an index of which a bit is another one has no rows, or
// no notes, and those it has are right.
func TestEachFlippedBitIsFound(t *testing.T) {
	path, want := made(t, 3, 10)
	whole, err := os.ReadFile(path)
	if err == nil {
		err = Append(path, me, []byte("appended"))
	}
	if err != nil {
		t.Fatal(err)
	}
	all, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	rows := len(whole) - noteBytes - len("first") // end here
	for i := 0; i < len(all); i++ {
		if i > 64 && i < rows-64 { // of the database some
			i += 50
		}
		flipped := bytes.Clone(all)
		flipped[i] ^= 1 << (i % 8)
		if err := os.WriteFile(path, flipped, 0o600); err != nil {
			t.Fatal(err)
		}
		got, said := read(t, path, me), notes(t, path, me)
		if sound := i >= rows; sound != maps.Equal(got, want) || !sound && got != nil {
			t.Fatalf("byte %d is another one, and %d rows are read", i, len(got))
		}
		if sound := i >= headerBytes && i < rows; sound != slices.Equal(said, []string{"first", "appended"}) || !sound && said != nil {
			t.Fatalf("byte %d is another one, and notes are read: %q", i, said)
		}
	}
}

// TestAnIndexThatEndsTooSoonIsNone, at whatever byte.
func TestAnIndexThatEndsTooSoonIsNone(t *testing.T) {
	path, want := made(t, 2, 10)
	whole, err := os.ReadFile(path)
	if err == nil {
		err = Append(path, me, []byte("appended"))
	}
	if err != nil {
		t.Fatal(err)
	}
	for n := int64(len(whole)) + noteBytes; n >= 0; n-- {
		if n > 64 && n < int64(len(whole)-64) {
			n -= 50
		}
		if err := os.Truncate(path, n); err != nil {
			t.Fatal(err)
		}
		if got := read(t, path, me); n < int64(len(whole)) && got != nil || n >= int64(len(whole)) && !maps.Equal(got, want) {
			t.Fatalf("of %d bytes: %v", n, got)
		}
		if got := notes(t, path, me); n == int64(len(whole)) != (got != nil) {
			t.Fatalf("of %d bytes, %d at first: notes %q", n, len(whole), got)
		}
	}
}

// TestAnIndexOfAnotherIsNone: another store's, another program's, no file at all.
func TestAnIndexOfAnotherIsNone(t *testing.T) {
	path, _ := made(t, 2, 10)
	if got := read(t, path, "another"); got != nil {
		t.Errorf("another store reads %v", got)
	}
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	b[8]++
	binary.LittleEndian.PutUint32(b[headerBytes-4:], checksum(b[:headerBytes-4]))
	dir := t.TempDir()
	size := func(path string) int64 {
		fi, err := os.Lstat(path)
		if err != nil {
			return -1
		}
		return fi.Size()
	}
	for name, make := range map[string]func(path string) error{
		"newer":  func(path string) error { return os.WriteFile(path, b, 0o600) },
		"bbolt":  func(path string) error { return os.WriteFile(path, b[headerBytes:], 0o600) },
		"empty":  func(path string) error { return os.WriteFile(path, nil, 0o600) },
		"zeros":  func(path string) error { return os.WriteFile(path, bytes.Repeat([]byte{0}, 1<<16), 0o600) },
		"link":   func(path string) error { return os.Symlink("/dev/zero", path) },
		"folder": func(path string) error { return os.Mkdir(path, 0o700) },
		"pipe":   func(path string) error { return unix.Mkfifo(path, 0o600) },
		"none":   func(string) error { return nil },
	} {
		path := filepath.Join(dir, name)
		if err := make(path); err != nil {
			t.Fatal(err)
		}
		if got := read(t, path, me); got != nil {
			t.Errorf("%s: %v", name, got)
		}
		_, err := Open(path, me)
		if foreign := name == "newer" || name == "bbolt" || name == "zeros"; foreign != errors.Is(err, ErrForeign) {
			t.Errorf("%s: %v", name, err)
		}
		before := size(path)
		if err := Append(path, me, []byte("x")); err == nil || size(path) != before {
			t.Errorf("%s is appended to: %v", name, err)
		}
	}
}

// TestNobodyWaitsForALockOnTheIndex.
func TestNobodyWaitsForALockOnTheIndex(t *testing.T) {
	path, want := made(t, 2, 10)
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX); err != nil {
		t.Fatal(err)
	}
	if got := read(t, path, me); !maps.Equal(got, want) {
		t.Errorf("while it is locked: %v", got)
	}
	if err := Append(path, me, nil); err != nil {
		t.Error(err)
	}
	if err := Write(path, me, nil, nil); err != nil {
		t.Error(err)
	}
}

// TestAReaderKeepsWhatItHasFound, whatever becomes of the file.
func TestAReaderKeepsWhatItHasFound(t *testing.T) {
	path, want := made(t, 2000, 500)
	x, err := Open(path, me)
	if err != nil {
		t.Fatal(err)
	}
	defer x.Close()
	if err := os.Truncate(path, 0); err != nil {
		t.Fatal(err)
	}
	n := 0
	for k, v := range x.Rows() {
		if n++; want[string(k)] != string(v) {
			t.Fatalf("%s is %q", k, v)
		}
	}
	if n != len(want) {
		t.Errorf("%d of %d rows", n, len(want))
	}
}

// FuzzFile: any bytes behind a header that holds are an index or none, and all notes
// are whole or there are none.
func FuzzFile(f *testing.F) {
	path, _ := made(f, 3, 10)
	whole, err := os.ReadFile(path)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(whole)
	f.Add(append(whole, 1, 0, 0, 0, 0, 0, 0, 0, 0))
	f.Fuzz(func(t *testing.T, b []byte) {
		if err := os.WriteFile(path, b, 0o600); err != nil {
			t.Fatal(err)
		}
		read(t, path, me)
		notes(t, path, me)
		found, err := parseNotes(b)
		var again []byte
		for _, note := range found {
			again = appendNote(again, note)
		}
		if err == nil && !bytes.Equal(again, b) {
			t.Errorf("%q is read as %q", b, found)
		}
	})
}

func BenchmarkOpen(b *testing.B) {
	path, _ := made(b, 10_000, 1200)
	for b.Loop() {
		if x, err := Open(path, me); err == nil {
			x.Close()
		}
	}
}

func BenchmarkWrite(b *testing.B) {
	for b.Loop() {
		made(b, 10_000, 1200)
	}
}
