// Package mapped reads files where the kernel has them, without a copy.
//
// Where read(2) would fail, the processor faults on memory that is mapped;
// [Guard] makes that an error again.
package mapped

import (
	"fmt"
	"os"
	"runtime"
	"runtime/debug"

	"golang.org/x/sys/unix"
)

// Open maps length bytes of f from byte off on, a multiple of the page size, for
// reading. [Close] ends it. Bytes behind the file's end must not be looked at.
func Open(f *os.File, off, length int64) ([]byte, error) {
	return unix.Mmap(int(f.Fd()), off, int(length), unix.PROT_READ, unix.MAP_SHARED)
}

// Close unmaps what Open gave.
func Close(data []byte) { _ = unix.Munmap(data) }

// Guard runs do, which looks at mapped memory. A fault, because the file was
// cut or its medium cannot be read, is an error; other panics go on.
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
