package vm

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/cocoonv2/cocoon/internal/base/failure"
)

// FreeHugePages counts the huge pages of a size that are neither used nor
// reserved; size 0 is the kernel's default.
func FreeHugePages(size uint64) (free int64, bytes uint64, err error) {
	if size == 0 {
		if size, err = defaultHugePage(); err != nil {
			return 0, 0, err
		}
	}
	dir := fmt.Sprintf("/sys/kernel/mm/hugepages/hugepages-%dkB", size>>10)
	count := func(name string) int64 {
		b, rerr := os.ReadFile(filepath.Join(dir, name))
		n, perr := strconv.ParseInt(strings.TrimSpace(string(b)), 10, 64)
		if rerr != nil && !errors.Is(rerr, os.ErrNotExist) {
			err = errors.Join(err, rerr)
		} else if rerr == nil {
			err = errors.Join(err, perr)
		}
		return n
	}
	return count("free_hugepages") - count("resv_hugepages"), size, err
}

func defaultHugePage() (uint64, error) {
	b, err := os.ReadFile("/proc/meminfo")
	if err != nil {
		return 0, err
	}
	for line := range strings.Lines(string(b)) {
		if f := strings.Fields(line); len(f) == 3 && f[0] == "Hugepagesize:" {
			n, err := strconv.ParseUint(f[1], 10, 64)
			return n << 10, err
		}
	}
	return 2 << 20, nil
}

// needHugePages refuses RAM for which there are too few free huge pages, by the
// bytes needed of each size. The VMM would end without naming the cause.
func needHugePages(bytes map[uint64]uint64) error {
	for size, n := range bytes {
		free, page, err := FreeHugePages(size)
		if err != nil {
			return fmt.Errorf("count huge pages: %w", err)
		}
		if need := int64((n + page - 1) / page); need > free {
			return TooFewHugePages(need, free, page)
		}
	}
	return nil
}

// TooFewHugePages is the refusal if fewer pages of so many bytes are free.
func TooFewHugePages(need, free int64, bytes uint64) error {
	return failure.Hint(failure.New(failure.NoSpace, "%d huge pages of %d KiB are needed, %d are free", need, bytes>>10, free),
		fmt.Sprintf("set more aside in /sys/kernel/mm/hugepages/hugepages-%dkB/nr_hugepages", bytes>>10))
}
