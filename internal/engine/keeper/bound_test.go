package keeper

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
)

const testMax = MinLogMax

// writer writes numbered lines at an offset of its own, as a VMM does.
type writer struct {
	f *os.File
	n int
}

func newWriter(t *testing.T, path string, how int) *writer {
	t.Helper()
	f, err := os.OpenFile(path, os.O_CREATE|os.O_TRUNC|os.O_WRONLY|how, 0o600)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close() })
	return &writer{f: f}
}

// lines writes as many as make so many bytes at least.
func (w *writer) lines(t *testing.T, bytes int) {
	t.Helper()
	for bytes > 0 {
		w.n++
		n, err := fmt.Fprintf(w.f, "line %08d of a guest that prints for ever\n", w.n)
		if err != nil {
			t.Fatal(err)
		}
		bytes -= n
	}
}

// check reads numbered lines: each whole, one after the other, from some number
// above after to last.
func check(t *testing.T, text []byte, last int) (first int) {
	t.Helper()
	if len(text) == 0 || bytes.IndexByte(text, 0) >= 0 || text[len(text)-1] != '\n' {
		t.Fatalf("%d bytes, NUL at %d", len(text), bytes.IndexByte(text, 0))
	}
	n := 0
	for line := range bytes.Lines(text) {
		var is int
		if _, err := fmt.Sscanf(string(line), "line %d of a guest that prints for ever\n", &is); err != nil || n > 0 && is != n+1 {
			t.Fatalf("behind line %d: %q", n, line)
		}
		if n = is; first == 0 {
			first = n
		}
	}
	if n != last {
		t.Fatalf("the last line is %d, want %d", n, last)
	}
	return first
}

func readAll(t *testing.T, path string) []byte {
	t.Helper()
	l, err := OpenLog(path)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	b, err := io.ReadAll(l)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func occupied(t *testing.T, path string) int64 {
	t.Helper()
	var st syscall.Stat_t
	if err := syscall.Stat(path, &st); err != nil {
		t.Fatal(err)
	}
	return st.Blocks * 512
}

// mounted is a folder with a file system of a kind of its own.
func mounted(t *testing.T, kind, options string) string {
	t.Helper()
	dir := t.TempDir()
	if err := syscall.Mount(kind, dir, kind, 0, options); err != nil {
		t.Skipf("cannot mount a %s here: %v", kind, err)
	}
	t.Cleanup(func() {
		if err := syscall.Unmount(dir, syscall.MNT_DETACH); err != nil {
			t.Error(err)
		}
	})
	return dir
}

// TestALogOccupiesNoMoreThanItMay, whoever writes how, on which file system: the
// newest lines are there, whole.
func TestALogOccupiesNoMoreThanItMay(t *testing.T) {
	for _, c := range []struct {
		name string
		how  int
		dir  func(*testing.T) string
	}{
		{"own offset", 0, (*testing.T).TempDir},
		{"append", os.O_APPEND, (*testing.T).TempDir},
		{"own offset, tmpfs", 0, func(t *testing.T) string { return mounted(t, "tmpfs", "size=4m") }},
		{"own offset, no holes", 0, func(t *testing.T) string { return mounted(t, "ramfs", "") }},
		{"append, no holes", os.O_APPEND, func(t *testing.T) string { return mounted(t, "ramfs", "") }},
	} {
		t.Run(c.name, func(t *testing.T) {
			path := filepath.Join(c.dir(t), SerialLog)
			w := newWriter(t, path, c.how)
			b, err := openBounded(path, testMax)
			if err != nil {
				t.Fatal(err)
			}
			defer b.f.Close()
			for range 100 {
				w.lines(t, testMax/7)
				if _, err := b.look(); err != nil {
					t.Fatal(err)
				}
				if got := occupied(t, path); got > testMax+pageBytes {
					t.Fatalf("after %d lines it occupies %d bytes of %d", w.n, got, testMax)
				}
			}
			w.lines(t, 1) // one that no look has seen
			if first := check(t, readAll(t, path), w.n); c.how == 0 && !strings.Contains(c.name, "no holes") && (w.n-first)*40 < testMax/4 {
				t.Errorf("only lines from %d to %d are left", first, w.n)
			}
			if last := LastLine(path); last != fmt.Sprintf("line %08d of a guest that prints for ever", w.n) {
				t.Errorf("the last line is %q", last)
			}
		})
	}
}

// TestAReaderFollowsALogThatIsBound: what is taken out before he had it he does
// not get, and never half a line or a hole.
func TestAReaderFollowsALogThatIsBound(t *testing.T) {
	path := filepath.Join(t.TempDir(), SerialLog)
	w := newWriter(t, path, 0)
	b, err := openBounded(path, testMax)
	if err != nil {
		t.Fatal(err)
	}
	defer b.f.Close()
	l, err := OpenLog(path)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	prev := 0
	for round := range 40 {
		w.lines(t, testMax/3)
		if _, err := b.look(); err != nil {
			t.Fatal(err)
		}
		if round%5 == 4 { // now and then he is late
			w.lines(t, 2*testMax)
			if _, err := b.look(); err != nil {
				t.Fatal(err)
			}
		}
		text, err := io.ReadAll(l)
		if err != nil {
			t.Fatal(err)
		}
		first := check(t, text, w.n)
		if late := round%5 == 4; first <= prev || !late && first != prev+1 {
			t.Fatalf("round %d: he had line %d and goes on at %d", round, prev, first)
		}
		prev = w.n
	}
	// The VMM is started again, and so is its log: the same file or another one.
	for _, remove := range []bool{false, true} {
		if remove {
			if err := os.Remove(path); err != nil {
				t.Fatal(err)
			}
		}
		w = newWriter(t, path, 0)
		w.lines(t, 100)
		text, err := io.ReadAll(l)
		if err != nil || check(t, text, w.n) != 1 {
			t.Errorf("removed %v: of the new log he gets %q, %v", remove, text, err)
		}
	}
}

// TestALogYieldsWhereThereIsNoRoom for the files of others.
func TestALogYieldsWhereThereIsNoRoom(t *testing.T) {
	dir := mounted(t, "tmpfs", "size=128k")
	path := filepath.Join(dir, SerialLog)
	w := newWriter(t, path, 0)
	b, err := openBounded(path, DefaultLogMax)
	if err != nil {
		t.Fatal(err)
	}
	defer b.f.Close()
	for {
		if _, err := w.f.Write(bytes.Repeat([]byte("full\n"), 800)); errors.Is(err, syscall.ENOSPC) {
			break
		} else if err != nil {
			t.Fatal(err)
		}
	}
	if _, err := b.look(); err != nil {
		t.Fatal(err)
	}
	if got := occupied(t, path); got > scarceLog+2*pageBytes {
		t.Errorf("it keeps %d bytes", got)
	}
	if err := os.WriteFile(filepath.Join(dir, "another"), make([]byte, 64<<10), 0o600); err != nil {
		t.Errorf("another file: %v", err)
	}
	if text := readAll(t, path); !bytes.Contains(text, []byte("full\n")) {
		t.Errorf("what is left: %d bytes", len(text))
	}
}

// TestWhatIsNewIsShownOnce, in lines that are whole however they come.
func TestWhatIsNewIsShownOnce(t *testing.T) {
	path := filepath.Join(t.TempDir(), SerialLog)
	w := newWriter(t, path, 0)
	b, err := openBounded(path, testMax)
	if err != nil {
		t.Fatal(err)
	}
	defer b.f.Close()
	var c console
	var got []string
	b.seeNew = func(text []byte) { c.lines(text, func(line []byte) { got = append(got, string(line)) }) }
	for _, part := range []string{"one\r\ntw", "o\n", "", "thr", "ee", "\n" + strings.Repeat("x", 3*lineBytes), "\nfour\n"} {
		if _, err := w.f.WriteString(part); err != nil {
			t.Fatal(err)
		}
		if _, err := b.look(); err != nil {
			t.Fatal(err)
		}
	}
	if want := []string{"one", "two", "three", strings.Repeat("x", lineBytes), "four"}; fmt.Sprint(got) != fmt.Sprint(want) {
		t.Errorf("%q", got)
	}
}
