package refs

import (
	"errors"
	"fmt"
	"os"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/cocoonv2/cocoon/internal/base/failure"
)

// TestNoSpaceIsToldAsSuch, also where bbolt answers no more than its text, as
// when the file cannot grow.
func TestNoSpaceIsToldAsSuch(t *testing.T) {
	for _, errno := range []unix.Errno{unix.ENOSPC, unix.EDQUOT} {
		err := fmt.Errorf("file resize error: %s", &os.PathError{Op: "truncate", Path: "refs.db.new", Err: errno})
		if got := classify("refs.db", err); !errors.Is(got, failure.NoSpace) {
			t.Errorf("%v has class %v", err, got)
		}
	}
	if got := classify("refs.db", errors.New("file resize error: input/output error")); errors.Is(got, failure.NoSpace) {
		t.Errorf("%v is no lack of space", got)
	}
}
