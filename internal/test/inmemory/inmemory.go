// Package inmemory has tests work where an fsync costs nothing.
//
// A test of what is decided, and of what a killed process leaves, needs a file
// system and not a disk: most of its time it would wait for one. What is about the
// disk itself (sparse files, shared extents, space, a cut of the power) does not
// belong here, and each suite of a store runs once on a disk as well (storetest).
// COCOON_TEST_ON_DISK=1 has all of them there.
package inmemory

import (
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/cocoonv2/cocoon/internal/test/leaktest"
)

// folder is a tmpfs that every Linux has.
const folder = "/dev/shm"

// enough is what the largest of these tests takes, bytes; a container may have less.
const enough = 1 << 30

// room makes a new folder there, "" where tests are to stay on the disk.
func room() string {
	var st unix.Statfs_t
	if os.Getenv("COCOON_TEST_ON_DISK") != "" || unix.Statfs(folder, &st) != nil || st.Type != unix.TMPFS_MAGIC || int64(st.Bavail)*st.Bsize < enough {
		return ""
	}
	removeOld()
	dir, err := os.MkdirTemp(folder, prefix+strconv.Itoa(os.Getpid())+"-")
	if err != nil {
		return ""
	}
	return dir
}

// prefix of the folders, before the process that works there.
const prefix = "cocoon-test-"

// removeOld removes the folders of processes that were killed: they occupy RAM.
func removeOld() {
	found, _ := filepath.Glob(filepath.Join(folder, prefix+"*-*"))
	for _, dir := range found {
		process, _, _ := strings.Cut(strings.TrimPrefix(filepath.Base(dir), prefix), "-")
		if pid, err := strconv.Atoi(process); err == nil && unix.Kill(pid, 0) == unix.ESRCH {
			_ = os.RemoveAll(dir) // best effort: it is only space
		}
	}
}

// Dir is as t.TempDir.
func Dir(t testing.TB) string {
	t.Helper()
	dir := room()
	if dir == "" {
		return t.TempDir()
	}
	t.Cleanup(func() {
		if err := os.RemoveAll(dir); err != nil {
			t.Error(err)
		}
	})
	return dir
}

// Tests are m with every t.TempDir of theirs, and of the processes that they start,
// in memory.
func Tests(m leaktest.M) leaktest.M { return moved{m} }

type moved struct{ leaktest.M }

func (m moved) Run() int {
	dir := room()
	if dir == "" {
		return m.M.Run()
	}
	if err := os.Setenv("TMPDIR", dir); err != nil {
		fmt.Println("FAIL:", err)
		return 1
	}
	code := m.M.Run()
	if err := os.RemoveAll(dir); err != nil {
		fmt.Println("FAIL:", err)
		return 1
	}
	return code
}
