package clone

import (
	"bytes"
	"context"
	"errors"
	"math/rand/v2"
	"os"
	"path/filepath"
	"syscall"
	"testing"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"github.com/cocoonv2/cocoon/internal/base/failure"
)

// layouts are (offset, length) stretches of data in a file of a size.
var layouts = map[string]struct {
	size int64
	data [][2]int64
}{
	"empty":         {0, nil},
	"one byte":      {1, [][2]int64{{0, 1}}},
	"only a hole":   {9 << 20, nil},
	"data, hole":    {20 << 20, [][2]int64{{0, 70000}}},
	"hole, data":    {20 << 20, [][2]int64{{19 << 20, 1 << 20}}},
	"odd tail":      {(1 << 20) + 77, [][2]int64{{0, (1 << 20) + 77}}},
	"several":       {40 << 20, [][2]int64{{8192, 4096}, {10 << 20, 9 << 20}, {39 << 20, 5}}},
	"hole, no tail": {(3 << 20) + 1, [][2]int64{{4096, 4096}}},
}

func write(t *testing.T, path string, size int64, data [][2]int64) []byte {
	t.Helper()
	f, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if err := f.Truncate(size); err != nil {
		t.Fatal(err)
	}
	want := make([]byte, size)
	r := rand.New(rand.NewPCG(1, 2))
	for _, d := range data {
		for i := d[0]; i < d[0]+d[1]; i++ {
			want[i] = byte(r.Uint32())
		}
		if _, err := f.WriteAt(want[d[0]:d[0]+d[1]], d[0]); err != nil {
			t.Fatal(err)
		}
	}
	return want
}

func allocated(t *testing.T, path string) int64 {
	t.Helper()
	fi, err := os.Stat(path)
	if err != nil {
		t.Fatal(err)
	}
	return fi.Sys().(*syscall.Stat_t).Blocks * 512
}

func TestFileCopiesBytesAndHoles(t *testing.T) {
	for name, l := range layouts {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			src, dst := filepath.Join(dir, "src"), filepath.Join(dir, "dst")
			want := write(t, src, l.size, l.data)
			var done, total int64
			method, err := File(t.Context(), dst, src, Options{OnBytes: func(d, n int64) {
				if d < done {
					t.Errorf("progress went back from %d to %d", done, d)
				}
				done, total = d, n
			}})
			if err != nil {
				t.Fatal(err)
			}
			got, err := os.ReadFile(dst)
			if err != nil {
				t.Fatal(err)
			}
			if !bytes.Equal(got, want) {
				t.Error("the copy differs")
			}
			if diff := cmp.Diff([]int64{l.size, l.size}, []int64{done, total}); diff != "" {
				t.Errorf("last progress (-want +got):\n%s", diff)
			}
			if a, b := allocated(t, src), allocated(t, dst); method == Sparse && b > a+64<<10 {
				t.Errorf("the copy takes %d bytes, its source %d", b, a)
			}
			if fi, err := os.Stat(dst); err != nil || fi.Mode() != 0o600 {
				t.Errorf("mode of the copy: %v, %v", fi.Mode(), err)
			}
		})
	}
}

// TestCopyByHandEqualsCopyInKernel holds the path of file systems that refuse
// copy_file_range.
func TestCopyByHandEqualsCopyInKernel(t *testing.T) {
	dir := t.TempDir()
	want := write(t, filepath.Join(dir, "src"), 100_000, [][2]int64{{0, 100_000}})
	in, err := os.Open(filepath.Join(dir, "src"))
	if err != nil {
		t.Fatal(err)
	}
	defer in.Close()
	out, err := os.Create(filepath.Join(dir, "dst"))
	if err != nil {
		t.Fatal(err)
	}
	defer out.Close()
	if _, err := copyByHand(out, in, 0, 50_000); err != nil {
		t.Fatal(err)
	}
	if _, err := copyByHand(out, in, 50_000, 50_000); err != nil {
		t.Fatal(err)
	}
	if got, err := os.ReadFile(out.Name()); err != nil || !bytes.Equal(got, want) {
		t.Fatalf("the copy differs: %v", err)
	}
	if _, err := copyByHand(out, in, 200_000, 1); err == nil {
		t.Error("a source that ended early is no error")
	}
}

func TestFileRefuses(t *testing.T) {
	dir := t.TempDir()
	src, taken, fifo := filepath.Join(dir, "src"), filepath.Join(dir, "taken"), filepath.Join(dir, "fifo")
	write(t, src, 10, [][2]int64{{0, 10}})
	write(t, taken, 3, [][2]int64{{0, 3}})
	if err := unix.Mkfifo(fifo, 0o600); err != nil {
		t.Fatal(err)
	}
	cancelled, cancel := context.WithCancel(t.Context())
	cancel()
	for _, tc := range []struct {
		name, src, dst string
		ctx            context.Context
		want           error
	}{
		{"missing source", filepath.Join(dir, "none"), "a", t.Context(), failure.NotFound},
		{"folder", dir, "b", t.Context(), failure.Usage},
		{"fifo", fifo, "c", t.Context(), failure.Usage},
		{"taken destination", src, "taken", t.Context(), os.ErrExist},
		{"cancelled", src, "d", cancelled, context.Canceled},
	} {
		t.Run(tc.name, func(t *testing.T) {
			dst := filepath.Join(dir, tc.dst)
			_, err := File(tc.ctx, dst, tc.src, Options{})
			if !errors.Is(err, tc.want) {
				t.Fatalf("got %v, want %v", err, tc.want)
			}
			if _, err := os.Stat(dst); dst != taken && !os.IsNotExist(err) {
				t.Errorf("%s was left behind: %v", dst, err)
			}
		})
	}
	if b, err := os.ReadFile(taken); err != nil || len(b) != 3 {
		t.Errorf("the taken file was touched: %d bytes, %v", len(b), err)
	}
}

func TestCancelHalfwayLeavesNothing(t *testing.T) {
	dir := t.TempDir()
	if CanReflink(dir) {
		t.Skip("this file system clones at once; there is no halfway")
	}
	src, dst := filepath.Join(dir, "src"), filepath.Join(dir, "dst")
	write(t, src, 3*chunk, [][2]int64{{0, 3 * chunk}})
	ctx, cancel := context.WithCancel(t.Context())
	_, err := File(ctx, dst, src, Options{OnBytes: func(int64, int64) { cancel() }})
	if !errors.Is(err, context.Canceled) {
		t.Fatalf("got %v, want cancelled", err)
	}
	if _, err := os.Stat(dst); !os.IsNotExist(err) {
		t.Errorf("half a copy is left: %v", err)
	}
}

func TestProbeLeavesNothingAndAgreesWithFile(t *testing.T) {
	dir := t.TempDir()
	can := CanReflink(dir)
	if left, err := os.ReadDir(dir); err != nil || len(left) != 0 {
		t.Fatalf("the probe left %v, %v", left, err)
	}
	write(t, filepath.Join(dir, "src"), 1<<20, [][2]int64{{0, 1 << 20}})
	method, err := File(t.Context(), filepath.Join(dir, "dst"), filepath.Join(dir, "src"), Options{})
	if err != nil || (method == Reflink) != can {
		t.Errorf("probe says %v, copy was by %q, %v", can, method, err)
	}
	if CanReflink(filepath.Join(dir, "none")) {
		t.Error("a folder that is not there can reflink")
	}
}
