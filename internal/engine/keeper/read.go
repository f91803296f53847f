package keeper

import (
	"bytes"
	"errors"
	"io"
	"os"

	"golang.org/x/sys/unix"
)

// Log reads a log whose old parts are removed while it is written: from where
// data begins, across new holes, and from the start again when a VMM starts it
// over. At its end it returns io.EOF, and more the next time if more came. whole
// is false while reading continues in the middle of a line that is gone.
type Log struct {
	path string
	f    *os.File
	at   int64
	// whole is false where reading goes on in the middle of a line that is gone.
	whole bool
}

// OpenLog opens a log for reading; a missing one is os.ErrNotExist.
func OpenLog(path string) (*Log, error) {
	f, err := openToRead(path)
	if err != nil {
		return nil, err
	}
	return &Log{path: path, f: f, whole: true}, nil
}

func openToRead(path string) (*os.File, error) {
	return os.OpenFile(path, os.O_RDONLY|unix.O_NOFOLLOW|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
}

// Close closes the file.
func (l *Log) Close() error { return l.f.Close() }

// Read returns what exists, whole lines first: the rest of a line whose beginning
// is gone is left out.
func (l *Log) Read(p []byte) (int, error) {
	if len(p) == 0 {
		return 0, nil
	}
	for {
		size, err := l.settle()
		if err != nil {
			return 0, err
		}
		if l.at >= size {
			if l.anew() {
				continue
			}
			return 0, io.EOF
		}
		n, err := l.f.ReadAt(p[:min(int64(len(p)), size-l.at)], l.at)
		if n == 0 && err != nil {
			return 0, err
		}
		if firstData(l.f, l.at) != l.at {
			continue // it became a hole while it was read
		}
		l.at += int64(n)
		if n = l.fromLineStart(p, l.withoutHole(p, n)); n > 0 {
			return n, nil
		}
	}
}

// anew switches to the file that has the name now, if that is another one.
func (l *Log) anew() bool {
	f, err := openToRead(l.path)
	if err != nil {
		return false
	}
	was, err := l.f.Stat()
	if is, ierr := f.Stat(); err != nil || ierr != nil || os.SameFile(was, is) {
		f.Close()
		return false
	}
	l.f.Close()
	l.f, l.at, l.whole = f, 0, true
	return true
}

// settle moves to where reading continues and returns the size.
func (l *Log) settle() (int64, error) {
	var st unix.Stat_t
	if err := unix.Fstat(int(l.f.Fd()), &st); err != nil {
		return 0, err
	}
	if st.Size < l.at {
		l.at, l.whole = 0, true
	}
	if l.at < st.Size {
		if at := min(firstData(l.f, l.at), st.Size); at > l.at {
			l.at, l.whole = at, false
		}
	}
	return st.Size, nil
}

// withoutHole drops the zeros of a hole on file systems that do not report holes.
func (l *Log) withoutHole(p []byte, n int) int {
	zeros := 0
	for zeros < n && p[zeros] == 0 {
		zeros++
	}
	if zeros == 0 || zeros < min(n, pageBytes) {
		return n
	}
	l.whole = false
	return copy(p, p[zeros:n])
}

// fromLineStart drops the rest of a line from the n bytes that were read.
func (l *Log) fromLineStart(p []byte, n int) int {
	if l.whole {
		return n
	}
	i := bytes.IndexByte(p[:n], '\n')
	if i < 0 {
		return 0
	}
	l.whole = true
	return copy(p, p[i+1:n])
}

// Tail moves to where at most n bytes are left.
func (l *Log) Tail(n int64) error {
	size, err := l.settle()
	if err == nil && size-n > l.at {
		l.at, l.whole = size-n, false
	}
	return err
}

// Occupied is what the logs of a run folder occupy, bytes, and how many there are.
func Occupied(dir string) (bytes int64, files int, err error) {
	for _, name := range []string{SerialLog, VMMLog} {
		var st unix.Stat_t
		err := unix.Lstat(dir+"/"+name, &st)
		if errors.Is(err, os.ErrNotExist) || errors.Is(err, unix.ENOTDIR) {
			continue
		}
		if err != nil {
			return 0, 0, &os.PathError{Op: "stat", Path: dir + "/" + name, Err: err}
		}
		bytes, files = bytes+st.Blocks*512, files+1
	}
	return bytes, files, nil
}
