package durable

import (
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"
)

// TestWritebackBeginsWhileTheFileIsWritten: pages that were dirty are clean, or
// on their way, before anybody calls fsync.
func TestWritebackBeginsWhileTheFileIsWritten(t *testing.T) {
	f, err := os.Create(filepath.Join(t.TempDir(), "f"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	w := NewWriteback(f)
	chunk := make([]byte, 1<<20)
	for range 2 * writebackBytes / len(chunk) {
		n, err := f.Write(chunk)
		if err != nil {
			t.Fatal(err)
		}
		w.Wrote(int64(n))
	}
	w.Wait()
	var st unix.Statfs_t
	if err := unix.Fstatfs(int(f.Fd()), &st); err != nil || st.Type == unix.TMPFS_MAGIC {
		t.Skipf("nothing is written out on a tmpfs (%v)", err)
	}
	if dirty, all := dirtyPages(t, f), uint64(2*writebackBytes/os.Getpagesize()); dirty >= all {
		t.Errorf("%d of %d pages are dirty, none was written out", dirty, all)
	}
}

// dirtyPages of a file that wait for somebody to write them out.
func dirtyPages(t *testing.T, f *os.File) uint64 {
	t.Helper()
	var c unix.Cachestat_t
	if err := unix.Cachestat(uint(f.Fd()), &unix.CachestatRange{}, &c, 0); err != nil {
		t.Skipf("the kernel does not tell which pages are dirty: %v", err)
	}
	return c.Dirty
}
