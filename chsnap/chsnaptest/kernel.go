package chsnaptest

import (
	"fmt"
	"os"
)

// writeKernel puts the guest ELF that COCOON_TEST_KERNEL names at path. Without
// it, path becomes a file that only the simulator accepts as a kernel, so that
// the probe of the real VMM fails and says so.
func writeKernel(path string) error {
	named := os.Getenv("COCOON_TEST_KERNEL")
	if named == "" {
		return os.WriteFile(path, []byte("not a kernel\n"), 0o600)
	}
	b, err := os.ReadFile(named)
	if err != nil {
		return fmt.Errorf("reading COCOON_TEST_KERNEL: %w", err)
	}
	return os.WriteFile(path, b, 0o600)
}
