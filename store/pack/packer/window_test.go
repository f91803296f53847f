package packer

import (
	"bytes"
	"context"
	"io"
	"os"
	"path/filepath"
	"testing"

	"github.com/cocoonv2/cocoon/internal/test/ramgen"
	"github.com/cocoonv2/cocoon/store/pack"
	"github.com/opencontainers/go-digest"
)

// sourceFile is a file with some RAM.
func sourceFile(t *testing.T, size int64) (*os.File, []byte) {
	t.Helper()
	want := make([]byte, size)
	if _, err := ramgen.New(size, 3).ReadAt(want, 0); err != nil {
		t.Fatal(err)
	}
	want[size-1] = 1 // the last page is to be stored
	return fileWith(t, want), want
}

func fileWith(t *testing.T, b []byte) *os.File {
	t.Helper()
	path := filepath.Join(t.TempDir(), "ram")
	if err := os.WriteFile(path, b, 0o600); err != nil {
		t.Fatal(err)
	}
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close() })
	return f
}

// filled is what a job brings of a source.
func filled(t *testing.T, r io.ReaderAt, off int64, length int) (*batch, *[pack.FramePages]bool) {
	t.Helper()
	j := &job{iw: &ImageWriter{}, batch: new(batch), read: r, offset: off, length: length, window: openWindow(r, off, int64(length))}
	defer j.window.leave()
	f := new(found)
	if err := j.fill(f); err != nil {
		t.Fatal(err)
	}
	return j.batch, &f.zero
}

// TestWindowsBringWhatReadingBrings, at both ends of a source.
func TestWindowsBringWhatReadingBrings(t *testing.T) {
	f, want := sourceFile(t, frameRawBytes+5*pack.PageSize+77)
	for _, at := range []struct {
		off    int64
		length int
	}{{0, frameRawBytes}, {frameRawBytes, 5*pack.PageSize + 77}} {
		w := openWindow(f, at.off, int64(at.length))
		if w == nil {
			t.Fatal("a plain file was not mapped")
		}
		w.leave()
		mapped, mappedZero := filled(t, f, at.off, at.length)
		read, readZero := filled(t, bytes.NewReader(want), at.off, at.length)
		for i := range read.pages {
			if mapped.pages[i] != read.pages[i] || mappedZero[i] != readZero[i] {
				t.Fatalf("page %d is page %d, zero %v; read it is page %d, zero %v", i, mapped.pages[i], mappedZero[i], read.pages[i], readZero[i])
			}
			if !readZero[i] && !bytes.Equal(mapped.page(i), read.page(i)) {
				t.Fatalf("page %d differs", i)
			}
		}
	}
}

// TestWhatCannotBeMappedIsRead: off the page borders, too short, no file.
func TestWhatCannotBeMappedIsRead(t *testing.T) {
	f, want := sourceFile(t, 2*pack.PageSize)
	for name, r := range map[string]io.ReaderAt{
		"between pages": io.NewSectionReader(f, 100, pack.PageSize),
		"no file":       bytes.NewReader(want[:pack.PageSize]),
	} {
		if openWindow(r, 0, pack.PageSize) != nil {
			t.Errorf("%s: was mapped", name)
		}
	}
	if openWindow(f, pack.PageSize, 2*pack.PageSize) != nil {
		t.Error("a window reaches behind the file's end")
	}
	b, _ := filled(t, io.NewSectionReader(f, 100, pack.PageSize), 0, pack.PageSize)
	if !bytes.Equal(b.page(0), want[100:100+pack.PageSize]) {
		t.Error("a source that does not begin on a page was read wrongly")
	}
}

// TestASourceThatIsCutMeanwhileIsAnError, where the processor faults and where
// the page that was cut reads as zeros.
func TestASourceThatIsCutMeanwhileIsAnError(t *testing.T) {
	for name, left := range map[string]int64{"whole pages gone": pack.PageSize, "within the last page": 4*pack.PageSize - 10} {
		t.Run(name, func(t *testing.T) {
			f, _ := sourceFile(t, 4*pack.PageSize)
			w := openWindow(f, 0, 4*pack.PageSize)
			if w == nil {
				t.Fatal("a plain file was not mapped")
			}
			defer w.leave()
			if err := f.Truncate(left); err != nil {
				t.Fatal(err)
			}
			j := &job{iw: &ImageWriter{}, batch: &batch{pages: []uint64{0, 1, 2, 3}}}
			if err := w.fill(j.batch, 0, 4*pack.PageSize, newLook(j, new(found))); err == nil {
				t.Error("no error")
			} else {
				t.Log(err)
			}
		})
	}
}

// TestNothingStaysMapped, whether the source was taken or given up.
func TestNothingStaysMapped(t *testing.T) {
	f, want := sourceFile(t, 3*windowBytes+5*pack.PageSize)
	for name, ctx := range map[string]context.Context{"taken": t.Context(), "given up": cancelled(t)} {
		w := NewWriter(t.Context(), nowhere{}, WriterOptions{})
		if err := w.Image(uint64(len(want)), nil).ReadFrom(ctx, f, nil); (err == nil) != (name == "taken") {
			t.Errorf("%s: %v", name, err)
		}
		w.Abort()
		maps, err := os.ReadFile("/proc/self/maps")
		if err != nil {
			t.Fatal(err)
		}
		if bytes.Contains(maps, []byte(f.Name())) {
			t.Errorf("%s: parts of the source are mapped still", name)
		}
	}
}

func cancelled(t *testing.T) context.Context {
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	return ctx
}

// nowhere is a Sink that keeps nothing.
type nowhere struct{}

func (nowhere) CreatePack(context.Context) (PackFile, error)       { return nowhere{}, nil }
func (nowhere) Write(p []byte) (int, error)                        { return len(p), nil }
func (nowhere) Commit(context.Context, digest.Digest, int64) error { return nil }
func (nowhere) Abort() error                                       { return nil }
