package gc

import (
	"bytes"
	"encoding/binary"
	"errors"
	"io"

	"golang.org/x/sys/unix"
)

// watch reports which entries came into a folder since the last query, so that a
// window need not list a folder of 10,000. The kernel queues the event before the
// causing call returns: a window, which waits for all publishers, misses nothing.
// If the kernel lost count, or cannot watch, the folder is listed.
type watch struct {
	fd  int
	buf []byte
}

// newWatch returns nil if nothing can be watched.
func newWatch(folder string) *watch {
	fd, err := unix.InotifyInit1(unix.IN_NONBLOCK | unix.IN_CLOEXEC)
	if err != nil {
		return nil
	}
	if _, err := unix.InotifyAddWatch(fd, folder, unix.IN_CREATE|unix.IN_MOVED_TO|unix.IN_ONLYDIR); err != nil {
		unix.Close(fd)
		return nil
	}
	return &watch{fd: fd, buf: make([]byte, 64<<10)}
}

// came returns the names of what came; false if that is unknown.
func (w *watch) came() (names []string, ok bool) {
	for {
		n, err := unix.Read(w.fd, w.buf)
		switch {
		case errors.Is(err, unix.EINTR):
			continue
		case errors.Is(err, unix.EAGAIN):
			return names, true
		case err != nil || n == 0:
			return nil, false
		}
		if names, err = appendNames(names, w.buf[:n]); err != nil {
			return nil, false
		}
	}
}

// Offsets in struct inotify_event, see inotify(7).
const (
	eventMask   = 4
	eventLength = 12
	eventName   = 16
)

func appendNames(names []string, b []byte) ([]string, error) {
	for len(b) >= eventName {
		mask := binary.NativeEndian.Uint32(b[eventMask:])
		end := eventName + int(binary.NativeEndian.Uint32(b[eventLength:]))
		if mask&(unix.IN_Q_OVERFLOW|unix.IN_IGNORED|unix.IN_UNMOUNT) != 0 || end > len(b) {
			return nil, io.ErrUnexpectedEOF
		}
		name, _, _ := bytes.Cut(b[eventName:end], []byte{0})
		names, b = append(names, string(name)), b[end:]
	}
	return names, nil
}

func (w *watch) close() {
	if w != nil {
		unix.Close(w.fd)
	}
}
