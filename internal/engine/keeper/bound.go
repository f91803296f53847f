package keeper

import (
	"bytes"
	"errors"
	"io"
	"os"

	"golang.org/x/sys/unix"
)

// DefaultLogMax is how much a log may occupy, bytes. Run folders are RAM on most
// hosts.
const DefaultLogMax = 1 << 20

// MinLogMax is the smallest limit of a log, bytes.
const MinLogMax = 64 << 10

// scarceLog is the limit when the run folder's file system is nearly full, bytes:
// what a guest prints must not deprive another VM of its files.
const scarceLog = 16 << 10

// bounded is a log written by another process, at its own offset. Old parts are
// removed by punching a hole at its beginning: its size keeps growing, the space
// it occupies does not, and no new byte is ever lost. A reader starts where the
// data starts (see Log).
type bounded struct {
	f      *os.File
	max    int64
	begin  int64 // where the data that is kept begins
	seen   int64 // up to where seeNew was shown what came
	seeNew func(text []byte)
}

// openBounded takes a log as it is.
func openBounded(path string, limit int64) (*bounded, error) {
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0o600)
	if err != nil {
		return nil, err
	}
	b := &bounded{f: f, max: limit}
	b.begin = firstData(f, 0)
	return b, nil
}

// firstData is where data begins after a hole at off; off itself if the file
// system does not report holes, or there is none.
func firstData(f *os.File, off int64) int64 {
	at, err := unix.Seek(int(f.Fd()), off, unix.SEEK_DATA)
	if err != nil {
		return off
	}
	return at
}

// look shows what was written since the last look, and punches a hole if there is
// too much. It returns how many bytes came.
func (b *bounded) look() (int64, error) {
	var st unix.Stat_t
	if err := unix.Fstat(int(b.f.Fd()), &st); err != nil {
		return 0, err
	}
	if st.Size < b.seen { // it was started over
		b.begin, b.seen = 0, 0
	}
	came := st.Size - b.seen
	if came == 0 {
		return 0, nil
	}
	b.show(st.Size)
	switch held := st.Size - b.begin; {
	case held > b.max:
		return came, b.keep(st.Size, b.max/2)
	case held > 2*scarceLog && scarce(b.f):
		return came, b.keep(st.Size, scarceLog)
	}
	return came, nil
}

// show reads what is new, at most as much as is kept of it.
func (b *bounded) show(size int64) {
	from := max(b.seen, size-b.max)
	b.seen = size
	if b.seeNew == nil {
		return
	}
	buf := make([]byte, 64<<10)
	for from < size {
		n, err := b.f.ReadAt(buf[:min(int64(len(buf)), size-from)], from)
		if n > 0 {
			b.seeNew(buf[:n])
		}
		if from += int64(n); err != nil || n == 0 {
			return
		}
	}
}

// pageBytes: holes are made of whole pages, which every file system can.
const pageBytes = 4096

// keep frees all but the last n bytes. On a file system without holes it
// truncates everything: the writer's offset stays, and its next write makes a
// hole.
func (b *bounded) keep(size, n int64) error {
	to := (size - n) / pageBytes * pageBytes
	if to <= b.begin {
		return nil
	}
	err := unix.Fallocate(int(b.f.Fd()), unix.FALLOC_FL_PUNCH_HOLE|unix.FALLOC_FL_KEEP_SIZE, 0, to)
	if errors.Is(err, unix.EOPNOTSUPP) || errors.Is(err, unix.ENOSYS) {
		to, err = size, unix.Ftruncate(int(b.f.Fd()), 0)
	}
	if err == nil {
		b.begin = to
	}
	return err
}

// scarce: less than a sixteenth of the file system is free, and less than a MiB.
func scarce(f *os.File) bool {
	var fs unix.Statfs_t
	if err := unix.Fstatfs(int(f.Fd()), &fs); err != nil || fs.Blocks == 0 {
		return false
	}
	return fs.Bavail*uint64(fs.Bsize) < min(fs.Blocks*uint64(fs.Bsize)/16, 1<<20)
}

// LastLine is the last non-empty line of a log, "" if there is none.
func LastLine(path string) string {
	l, err := OpenLog(path)
	if err != nil {
		return ""
	}
	defer l.Close()
	if err := l.Tail(tailBytes); err != nil {
		return ""
	}
	b, _ := io.ReadAll(io.LimitReader(l, 2*tailBytes))
	b = bytes.TrimSpace(b)
	return string(b[bytes.LastIndexByte(b, '\n')+1:])
}

// tailBytes is how far from its end the last line of a log is searched.
const tailBytes = 16 << 10
