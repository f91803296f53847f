// Package mapped reads files in the page cache, without a copy.
//
// Where read(2) would fail, access to mapped memory raises a fault; [Guard] turns
// that into an error again.
package mapped

import (
	"fmt"
	"os"
	"runtime"
	"runtime/debug"

	"golang.org/x/sys/unix"
)

// Open maps length bytes of f from byte off on, a multiple of the page size, for
// reading. [Close] ends it. Bytes beyond the end of the file must not be
// accessed.
func Open(f *os.File, off, length int64) ([]byte, error) {
	return unix.Mmap(int(f.Fd()), off, int(length), unix.PROT_READ, unix.MAP_SHARED)
}

// Close unmaps what Open returned.
func Close(data []byte) { _ = unix.Munmap(data) }

// Guard runs do, which accesses mapped memory. A fault, because the file was
// truncated or its medium cannot be read, becomes an error; other panics
// propagate.
func Guard(do func() error) (err error) {
	defer debug.SetPanicOnFault(debug.SetPanicOnFault(true))
	defer func() {
		if cause := recover(); cause != nil {
			fault, ok := cause.(interface {
				runtime.Error
				Addr() uintptr
			})
			if !ok {
				panic(cause)
			}
			err = fmt.Errorf("mapped file: %w", fault)
		}
	}()
	return do()
}
