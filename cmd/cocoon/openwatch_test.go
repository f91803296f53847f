package main

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"golang.org/x/sys/unix"
)

// opened is one file that a VMM opened, as the kernel tells it.
type opened struct {
	pid  int
	path string
}

// openWatch asks the kernel which files of one file system VMMs open, and with
// which arguments they run. The kernel waits with each open until the watch has
// looked (fanotify, FAN_OPEN_PERM), so that no process ends unseen.
type openWatch struct {
	fd  int
	vmm string // path of the binary

	mu    sync.Mutex
	opens []opened
	argv  map[int][]string
}

// watchOpens marks the file system that holds dir.
func watchOpens(t *testing.T, dir, vmm string) *openWatch {
	t.Helper()
	real, err := filepath.EvalSymlinks(vmm)
	if err != nil {
		t.Fatal(err)
	}
	fd, err := unix.FanotifyInit(unix.FAN_CLASS_CONTENT|unix.FAN_CLOEXEC|unix.FAN_UNLIMITED_QUEUE, unix.O_RDONLY|unix.O_LARGEFILE|unix.O_CLOEXEC)
	if err == nil {
		err = unix.FanotifyMark(fd, unix.FAN_MARK_ADD|unix.FAN_MARK_FILESYSTEM, unix.FAN_OPEN_PERM, unix.AT_FDCWD, dir)
	}
	if err != nil {
		t.Skipf("this kernel does not tell who opens files (fanotify): %v", err)
	}
	w := &openWatch{fd: fd, vmm: real, argv: map[int][]string{}}
	done := make(chan error)
	go func() { done <- w.listen() }()
	t.Cleanup(func() {
		// One open of our own, answered like any other, brings the listener back to
		// a descriptor that is closed to it.
		w.stop()
		if err := os.WriteFile(filepath.Join(dir, "end of the watch"), nil, 0o600); err != nil {
			t.Error(err)
		}
		if err := <-done; err != nil {
			t.Errorf("watching opens: %v", err)
		}
		unix.Close(fd)
	})
	return w
}

// stop makes the next event the last.
func (w *openWatch) stop() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.vmm = ""
}

func (w *openWatch) stopped() bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.vmm == ""
}

// listen must not open a file of the file system itself: it would wait for its
// own answer.
func (w *openWatch) listen() error {
	buf := make([]byte, 64<<10)
	for !w.stopped() {
		n, err := unix.Read(w.fd, buf)
		if errors.Is(err, unix.EINTR) {
			continue
		}
		if err != nil {
			return err
		}
		for b := buf[:n]; len(b) >= unix.FAN_EVENT_METADATA_LEN; {
			var e unix.FanotifyEventMetadata
			if err := binary.Read(bytes.NewReader(b), binary.NativeEndian, &e); err != nil {
				return err
			}
			b = b[e.Event_len:]
			w.note(e)
			answer := unix.FanotifyResponse{Fd: e.Fd, Response: unix.FAN_ALLOW}
			var out bytes.Buffer
			if err := errors.Join(binary.Write(&out, binary.NativeEndian, answer)); err != nil {
				return err
			}
			_, err := unix.Write(w.fd, out.Bytes())
			if err := errors.Join(err, unix.Close(int(e.Fd))); err != nil {
				return err
			}
		}
	}
	return nil
}

func (w *openWatch) note(e unix.FanotifyEventMetadata) {
	pid := int(e.Pid)
	w.mu.Lock()
	defer w.mu.Unlock()
	exe, err := os.Readlink(fmt.Sprintf("/proc/%d/exe", pid))
	if err != nil || exe != w.vmm {
		return
	}
	path, err := os.Readlink(fmt.Sprintf("/proc/self/fd/%d", e.Fd))
	if err != nil {
		path = "unknown: " + err.Error()
	}
	w.opens = append(w.opens, opened{pid, path})
	if w.argv[pid] == nil {
		b, _ := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", pid))
		w.argv[pid] = strings.Split(strings.TrimSuffix(string(b), "\x00"), "\x00")
	}
}

// take is what was seen since it was last asked.
func (w *openWatch) take() ([]opened, map[int][]string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	opens, argv := w.opens, w.argv
	w.opens, w.argv = nil, map[int][]string{}
	return opens, argv
}
