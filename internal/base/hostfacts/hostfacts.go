// Package hostfacts asks the machine that this program runs on what several rooms want
// to know of it: its processor, and how much room a file system has.
//
// It decides nothing: what is too little or the wrong processor is for the rooms
// to say.
package hostfacts

import (
	"bufio"
	"fmt"
	"os"
	"strings"

	"golang.org/x/sys/unix"
)

// Processor is what /proc/cpuinfo says of the first one.
type Processor struct {
	Model string
	Flags []string
}

// CPU reads it; what is not said is left empty.
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

// FreeBytes is what somebody without privileges may still write on the file system
// of a path, and all that it has.
func FreeBytes(path string) (free, total int64, err error) {
	var fs unix.Statfs_t
	if err := unix.Statfs(path, &fs); err != nil {
		return 0, 0, fmt.Errorf("ask for free space of %s: %w", path, err)
	}
	return int64(fs.Bavail) * fs.Bsize, int64(fs.Blocks) * fs.Bsize, nil
}
