//go:build amd64

package durabletest

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strings"

	"golang.org/x/sys/unix"
)

// Call is one system call that may change a file.
type Call struct {
	Name   string // openat, write, renameat2, …
	Site   string // where the program made it: "store/ingest.go:140 < internal/base/durable/durable.go:70"
	Path   string // absolute; of the descriptor where there is no path
	To     string // the new name, where there are two
	Node   uint64 // inode of the file that was written, synced, made or renamed
	Dir    bool   // Node is a folder
	Offset int64
	Bytes  int64  // asked for; of a truncation the new size
	Data   []byte // of a symbolic link what it leads to
	Flags  uint64
	Result int64

	fd      int
	address uint64
}

const atRemoveDir = 0x200

// decode gives the call that a thread is about to make, nil for one that changes
// no file. Arguments of amd64 stand in rdi, rsi, rdx, r10, r8, r9.
func (r *run) decode(regs *unix.PtraceRegs) *Call {
	a := [6]uint64{regs.Rdi, regs.Rsi, regs.Rdx, regs.R10, regs.R8, regs.R9}
	var c *Call
	switch regs.Orig_rax {
	case unix.SYS_OPENAT:
		if a[2]&(unix.O_CREAT|unix.O_TRUNC) != 0 {
			c = &Call{Name: "openat", Path: r.at(a[0], a[1]), Flags: a[2]}
		}
	case unix.SYS_MKDIRAT:
		c = &Call{Name: "mkdirat", Path: r.at(a[0], a[1])}
	case unix.SYS_UNLINKAT:
		c = &Call{Name: "unlinkat", Path: r.at(a[0], a[1]), Flags: a[2], Dir: a[2]&atRemoveDir != 0}
	case unix.SYS_RENAMEAT:
		c = &Call{Name: "renameat", Path: r.at(a[0], a[1]), To: r.at(a[2], a[3])}
	case unix.SYS_RENAMEAT2:
		c = &Call{Name: "renameat2", Path: r.at(a[0], a[1]), To: r.at(a[2], a[3]), Flags: a[4]}
	case unix.SYS_LINKAT:
		c = &Call{Name: "linkat", Path: r.at(a[0], a[1]), To: r.at(a[2], a[3])}
	case unix.SYS_SYMLINKAT:
		c = &Call{Name: "symlinkat", Path: r.at(a[1], a[2]), Data: []byte(r.text(a[0]))}
	case unix.SYS_WRITE:
		c = &Call{Name: "write", fd: int(a[0]), address: a[1], Bytes: int64(a[2]), Offset: -1}
	case unix.SYS_PWRITE64:
		c = &Call{Name: "pwrite64", fd: int(a[0]), address: a[1], Bytes: int64(a[2]), Offset: int64(a[3])}
	case unix.SYS_PWRITEV:
		c = &Call{Name: "pwritev", fd: int(a[0]), Offset: int64(a[3])}
	case unix.SYS_COPY_FILE_RANGE:
		c = &Call{Name: "copy_file_range", fd: int(a[2]), Offset: -1}
	case unix.SYS_FTRUNCATE:
		c = &Call{Name: "ftruncate", fd: int(a[0]), Bytes: int64(a[1])}
	case unix.SYS_FALLOCATE:
		c = &Call{Name: "fallocate", fd: int(a[0]), Flags: a[1], Offset: int64(a[2]), Bytes: int64(a[3])}
	case unix.SYS_FSYNC:
		c = &Call{Name: "fsync", fd: int(a[0])}
	case unix.SYS_FDATASYNC:
		c = &Call{Name: "fdatasync", fd: int(a[0])}
	case unix.SYS_FCHMOD:
		c = &Call{Name: "fchmod", fd: int(a[0])}
	}
	if c == nil {
		return nil
	}
	if c.Path == "" {
		c.Path, _ = os.Readlink(r.descriptor(c.fd))
		c.identify(r.descriptor(c.fd))
	} else if c.To != "" || c.Name == "unlinkat" {
		c.identify(c.Path)
	}
	if c.Offset < 0 {
		c.Offset = r.position(c.fd)
	}
	c.Site = r.site(regs)
	return c
}

func (r *run) descriptor(fd int) string { return fmt.Sprintf("/proc/%d/fd/%d", r.pid, fd) }

// identify finds out which inode a path is.
func (c *Call) identify(path string) {
	var st unix.Stat_t
	stat := unix.Lstat
	if strings.HasPrefix(path, "/proc/") {
		stat = unix.Stat
	}
	if stat(path, &st) == nil {
		c.Node, c.Dir = st.Ino, st.Mode&unix.S_IFMT == unix.S_IFDIR
	}
}

// complete adds what is known only when the call was made.
func (r *run) complete(c *Call) {
	switch c.Name {
	case "openat", "mkdirat", "symlinkat":
		c.identify(c.Path)
	case "write", "pwrite64":
		c.Data = make([]byte, c.Result)
		if n, _ := r.mem.ReadAt(c.Data, int64(c.address)); n < len(c.Data) {
			c.Data = nil
		}
	case "pwritev", "copy_file_range":
		c.Data = make([]byte, c.Result)
		f, err := os.Open(r.descriptor(c.fd))
		if err != nil {
			return
		}
		defer f.Close()
		_, _ = f.ReadAt(c.Data, c.Offset) // what is there now is what was written
	}
}

// at resolves a path argument against its folder argument.
func (r *run) at(dir, address uint64) string {
	path := r.text(address)
	if filepath.IsAbs(path) {
		return filepath.Clean(path)
	}
	base := fmt.Sprintf("/proc/%d/cwd", r.pid)
	if fd := int32(dir); fd != unix.AT_FDCWD {
		base = r.descriptor(int(fd))
	}
	base, _ = os.Readlink(base)
	return filepath.Join(base, path)
}

// text reads a string of the program that ends with a zero byte.
func (r *run) text(address uint64) string {
	b := make([]byte, unix.PathMax)
	n, _ := r.mem.ReadAt(b, int64(address)) // short at the end of a mapping
	text, _, _ := bytes.Cut(b[:n], []byte{0})
	return string(text)
}

// position is the file offset of a descriptor.
func (r *run) position(fd int) int64 {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/fdinfo/%d", r.pid, fd))
	var pos int64
	if err != nil {
		return 0
	}
	_, _ = fmt.Sscanf(string(b), "pos:\t%d", &pos)
	return pos
}

const (
	module    = "github.com/cocoonv2/cocoon/"
	durableIn = module + "internal/base/durable."
)

// site walks the frame pointers of the calling goroutine, which Go keeps, and
// names the innermost frame of this project, and the one that called package
// durable where it is that. The program is the binary that this code is in, so
// its addresses are ours.
func (r *run) site(regs *unix.PtraceRegs) string {
	pcs := []uintptr{uintptr(r.word(regs.Rsp))}
	for fp := regs.Rbp; fp != 0 && len(pcs) < 64; fp = r.word(fp) {
		pcs = append(pcs, uintptr(r.word(fp+8)))
	}
	frames := runtime.CallersFrames(pcs)
	var at []string
	for {
		f, more := frames.Next()
		if in, ours := strings.CutPrefix(f.Function, module); ours {
			folder, _, _ := strings.Cut(in, ".")
			at = append([]string{fmt.Sprintf("%s/%s:%d", folder, filepath.Base(f.File), f.Line)}, at...)
			if !strings.HasPrefix(f.Function, durableIn) {
				break
			}
		}
		if !more {
			break
		}
	}
	return strings.Join(at, " < ")
}

func (r *run) word(address uint64) uint64 {
	var b [8]byte
	if n, _ := r.mem.ReadAt(b[:], int64(address)); n < len(b) {
		return 0
	}
	return binary.LittleEndian.Uint64(b[:])
}
