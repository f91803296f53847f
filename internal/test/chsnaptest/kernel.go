package chsnaptest

import (
	"fmt"
	"os"

	"github.com/cocoonv2/cocoon/internal/base/guest"
)

// writeKernel puts the test guest at path, or the ELF file that
// COCOON_TEST_KERNEL names instead of it.
func writeKernel(path string) error {
	named := os.Getenv("COCOON_TEST_KERNEL")
	if named == "" {
		return guest.WriteFile(path)
	}
	b, err := os.ReadFile(named)
	if err != nil {
		return fmt.Errorf("reading COCOON_TEST_KERNEL: %w", err)
	}
	return os.WriteFile(path, b, 0o600)
}
