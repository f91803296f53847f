// Package hostfacts reads facts about the host that several packages need: its
// processor, and the free space of a file system.
//
// It decides nothing: what is too little, or the wrong processor, is for its
// callers to say.
package hostfacts

import (
	"bufio"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

// Processor is what /proc/cpuinfo says about the first one.
type Processor struct {
	Model string
	Flags []string
}

// CPU reads it; missing fields stay empty.
func CPU() (p Processor) {
	f, err := os.Open("/proc/cpuinfo")
	if err != nil {
		return p
	}
	defer f.Close()
	for sc := bufio.NewScanner(f); sc.Scan(); {
		key, value, _ := strings.Cut(sc.Text(), ":")
		switch strings.TrimSpace(key) {
		case "model name":
			p.Model = strings.TrimSpace(value)
		case "flags":
			p.Flags = strings.Fields(value)
			return p
		}
	}
	return p
}

// FreeBytes returns the space available to unprivileged users on the file system
// of a path, and its total size.
func FreeBytes(path string) (free, total int64, err error) {
	var fs unix.Statfs_t
	if err := unix.Statfs(path, &fs); err != nil {
		return 0, 0, fmt.Errorf("ask for free space of %s: %w", path, err)
	}
	return int64(fs.Bavail) * fs.Bsize, int64(fs.Blocks) * fs.Bsize, nil
}

// FileBytes is what one file or tree occupies on disk.
func FileBytes(path string) (sum int64) {
	_ = filepath.WalkDir(path, func(p string, d os.DirEntry, err error) error {
		var st unix.Stat_t
		if err == nil && unix.Lstat(p, &st) == nil && !d.IsDir() {
			sum += st.Blocks * 512
		}
		return nil
	})
	return sum
}

// InfoBytes is what a file that was looked at occupies on disk.
func InfoBytes(fi os.FileInfo) int64 {
	if st, ok := fi.Sys().(*syscall.Stat_t); ok {
		return st.Blocks * 512
	}
	return fi.Size()
}
