package pack

import (
	"bytes"
	"io"
	"os"
	"path/filepath"
	"testing"

	"github.com/cocoonv2/cocoon/internal/ramgen"
)

// sourceFile is a file with some RAM.
func sourceFile(t *testing.T, size int64) (*os.File, []byte) {
	t.Helper()
	want := make([]byte, size)
	if _, err := ramgen.New(size, 3).ReadAt(want, 0); err != nil {
		t.Fatal(err)
	}
	want[size-1] = 1 // the last page is to be stored
	path := filepath.Join(t.TempDir(), "ram")
	if err := os.WriteFile(path, want, 0o600); err != nil {
		t.Fatal(err)
	}
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close() })
	return f, want
}

// filled is what a job brings of a source.
func filled(t *testing.T, r io.ReaderAt, off int64, length int) (*batch, *[FramePages]bool) {
	t.Helper()
	j := &job{batch: new(batch), read: r, offset: off, length: length}
	zero := new([FramePages]bool)
	if err := j.fill(zero); err != nil {
		t.Fatal(err)
	}
	return j.batch, zero
}

// TestWindowsBringWhatReadingBrings, at both ends of a source.
func TestWindowsBringWhatReadingBrings(t *testing.T) {
	f, want := sourceFile(t, frameRawBytes+5*PageSize+77)
	for _, at := range []struct {
		off    int64
		length int
	}{{0, frameRawBytes}, {frameRawBytes, 5*PageSize + 77}} {
		if w := openWindow(f, at.off, at.length); w == nil {
			t.Fatal("a plain file was not mapped")
		} else {
			w.close()
		}
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
	f, want := sourceFile(t, 2*PageSize)
	for name, r := range map[string]io.ReaderAt{
		"between pages": io.NewSectionReader(f, 100, PageSize),
		"no file":       bytes.NewReader(want[:PageSize]),
	} {
		if openWindow(r, 0, PageSize) != nil {
			t.Errorf("%s: was mapped", name)
		}
	}
	if openWindow(f, PageSize, 2*PageSize) != nil {
		t.Error("a window reaches behind the file's end")
	}
	b, _ := filled(t, io.NewSectionReader(f, 100, PageSize), 0, PageSize)
	if !bytes.Equal(b.page(0), want[100:100+PageSize]) {
		t.Error("a source that does not begin on a page was read wrongly")
	}
}

// TestASourceThatIsCutMeanwhileIsAnError, where the processor faults and where
// the page that was cut reads as zeros.
func TestASourceThatIsCutMeanwhileIsAnError(t *testing.T) {
	for name, left := range map[string]int64{"whole pages gone": PageSize, "within the last page": 4*PageSize - 10} {
		t.Run(name, func(t *testing.T) {
			f, _ := sourceFile(t, 4*PageSize)
			w := openWindow(f, 0, 4*PageSize)
			if w == nil {
				t.Fatal("a plain file was not mapped")
			}
			defer w.close()
			if err := f.Truncate(left); err != nil {
				t.Fatal(err)
			}
			b := &batch{pages: []uint64{0, 1, 2, 3}}
			if err := w.fill(b, new([FramePages]bool)); err == nil {
				t.Error("no error")
			} else {
				t.Log(err)
			}
		})
	}
}
