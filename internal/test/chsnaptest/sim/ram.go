package sim

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"

	"golang.org/x/sys/unix"
)

// lowTop is where RAM below 4 GiB ends on x86; what does not fit goes on at
// highBase.
const (
	lowTop   = 3 << 30
	highBase = 4 << 30
	chunk    = 1 << 20
)

// span is one contiguous piece of guest RAM and its mapping in this process.
type span struct {
	gpa, size  uint64
	slot       int
	fileOffset uint64
	mem        []byte
	shared     *os.File // memfd behind mem with --memory shared=on, else nil
}

// ram is all of a guest's memory in address order.
type ram struct{ spans []*span }

// layout splits bytes of RAM as the real VMM does: up to 3 GiB at 0, the rest at
// 4 GiB. Slots count from firstSlot.
func layout(total uint64, firstSlot int) []*span {
	low := min(total, lowTop)
	spans := []*span{{gpa: 0, size: low, slot: firstSlot}}
	if total > low {
		spans = append(spans, &span{gpa: highBase, size: total - low, slot: firstSlot + 1})
	}
	return spans
}

// newRAM maps spans with fresh zero memory, or privately onto a zone's file. Only
// pages that are written cost memory.
func newRAM(spans []*span, c *memoryConfig) (*ram, error) {
	r := &ram{spans: spans}
	for _, s := range spans {
		if err := s.mapMemory(c); err != nil {
			r.close()
			return nil, err
		}
	}
	return r, nil
}

func (s *span) mapMemory(c *memoryConfig) error {
	const prot = unix.PROT_READ | unix.PROT_WRITE
	var err error
	switch {
	case len(c.Zones) > 0 && c.Zones[0].File != "":
		f, openErr := os.Open(c.Zones[0].File)
		if openErr != nil {
			return faultf("Memory manager error", "Failed to stat filesystem").because(openErr)
		}
		defer f.Close()
		s.mem, err = unix.Mmap(int(f.Fd()), int64(s.fileOffset), int(s.size), prot, unix.MAP_PRIVATE|unix.MAP_NORESERVE)
	case c.Shared, len(c.Zones) > 0 && c.Zones[0].Shared:
		fd, fdErr := unix.MemfdCreate("ch_ram", unix.MFD_CLOEXEC)
		if fdErr != nil {
			return fmt.Errorf("making guest memory: %w", fdErr)
		}
		s.shared = os.NewFile(uintptr(fd), "ch_ram")
		if err := s.shared.Truncate(int64(s.size)); err != nil {
			return fmt.Errorf("sizing guest memory to %d bytes: %w", s.size, err)
		}
		s.mem, err = unix.Mmap(fd, 0, int(s.size), prot, unix.MAP_SHARED|unix.MAP_NORESERVE)
	default:
		s.mem, err = unix.Mmap(-1, 0, int(s.size), prot, unix.MAP_PRIVATE|unix.MAP_ANONYMOUS|unix.MAP_NORESERVE)
		if err == nil {
			err = unix.Madvise(s.mem, unix.MADV_NOHUGEPAGE)
		}
	}
	if err != nil {
		return faultf("Memory manager error", "Mmap backed guest memory").because(err)
	}
	return nil
}

func (r *ram) close() {
	for _, s := range r.spans {
		if s.mem != nil {
			_ = unix.Munmap(s.mem)
			s.mem = nil
		}
		if s.shared != nil {
			s.shared.Close()
			s.shared = nil
		}
	}
}

func (r *ram) isShared() bool {
	for _, s := range r.spans {
		if s.shared != nil {
			return true
		}
	}
	return false
}

func (r *ram) bytes() uint64 {
	total := uint64(0)
	for _, s := range r.spans {
		total += s.size
	}
	return total
}

// at returns the n bytes of RAM at guest address gpa, nil where there is none.
func (r *ram) at(gpa uint64, n int) []byte {
	for _, s := range r.spans {
		if gpa >= s.gpa && gpa+uint64(n) <= s.gpa+s.size {
			return s.mem[gpa-s.gpa:][:n:n]
		}
	}
	return nil
}

// dump writes all RAM to a new file: dense for private memory, holes kept for a
// memfd. The file has its full size from the start, so after an error its size
// says nothing. limit < 0 writes everything; else ENOSPC comes after limit bytes.
func (r *ram) dump(f *os.File, limit int64) error {
	if err := f.Truncate(int64(r.bytes())); err != nil {
		return err
	}
	base := int64(0)
	for _, s := range r.spans {
		var err error
		if s.shared != nil {
			err = s.dumpSparse(f, base, limit)
		} else {
			err = s.dumpDense(f, base, limit)
		}
		if err != nil {
			return err
		}
		base += int64(s.size)
	}
	return nil
}

func (s *span) dumpDense(f *os.File, base, limit int64) error {
	for off := int64(0); off < int64(s.size); off += chunk {
		end := min(off+chunk, int64(s.size))
		err := error(unix.ENOSPC)
		if limit < 0 || base+end <= limit {
			_, err = f.WriteAt(s.mem[off:end], base+off)
		}
		if err != nil {
			return faultf("Error writing dense memory snapshot region", "Guest memory error: "+osMessage(err))
		}
	}
	return nil
}

func (s *span) dumpSparse(f *os.File, base, limit int64) error {
	return eachExtent(s.shared, 0, int64(s.size), func(start, end int64) error {
		for off := start; off < end; off += chunk {
			stop := min(off+chunk, end)
			err := error(unix.ENOSPC)
			if limit < 0 || base+stop <= limit {
				_, err = f.WriteAt(s.mem[off:stop], base+off)
			}
			if err != nil {
				return faultf("Error writing sparse memory snapshot region").because(err)
			}
		}
		return nil
	})
}

// load fills RAM from a memory-ranges file laid out as table says. A file that is
// too short leaves zeros, silently, as the real VMM does.
func (r *ram) load(path string, table []memoryRange) error {
	f, err := os.Open(path)
	if err != nil {
		return faultf("Memory manager error", "Error opening snapshot file").because(err)
	}
	defer f.Close()
	base := int64(0)
	for _, t := range table {
		mem := r.at(t.GPA, int(t.Length))
		if mem == nil {
			return faultf("Memory manager error", "Guest memory error: Invalid guest address")
		}
		err := eachExtent(f, base, base+int64(t.Length), func(start, end int64) error {
			return readNonZero(f, start, mem[start-base:end-base])
		})
		if err != nil {
			return faultf("Memory manager error", "Error filling guest memory").because(err)
		}
		base += int64(t.Length)
	}
	return nil
}

// readNonZero copies file bytes into mem and leaves pages that are zero in the
// file untouched: mem is fresh, and a page not touched costs nothing.
func readNonZero(f *os.File, off int64, mem []byte) error {
	buf := make([]byte, chunk)
	for done := 0; done < len(mem); {
		n, err := f.ReadAt(buf[:min(chunk, len(mem)-done)], off+int64(done))
		for at := 0; at < n; at += pageSize {
			page := buf[at:min(at+pageSize, n)]
			if !isZero(page) {
				copy(mem[done+at:], page)
			}
		}
		done += n
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
	}
	return nil
}

func isZero(b []byte) bool {
	return b[0] == 0 && bytes.Equal(b[:len(b)-1], b[1:])
}

// eachExtent calls fn with each piece of data in [start, end) of f, cut at the
// borders; holes are skipped, as is everything past the end of the file.
func eachExtent(f *os.File, start, end int64, fn func(start, end int64) error) error {
	for start < end {
		data, err := unix.Seek(int(f.Fd()), start, unix.SEEK_DATA)
		if errors.Is(err, unix.ENXIO) || err == nil && data >= end {
			return nil
		}
		if err != nil {
			return err
		}
		hole, err := unix.Seek(int(f.Fd()), data, unix.SEEK_HOLE)
		if err != nil {
			return err
		}
		if err := fn(data, min(hole, end)); err != nil {
			return err
		}
		start = hole
	}
	return nil
}
