package trash

import (
	"errors"
	"os"
	"testing"

	"github.com/cocoonv2/cocoon/internal/base/immutable"
)

func immutableUntilTheEnd(t *testing.T, path string) error {
	t.Helper()
	t.Cleanup(func() {
		if err := immutable.Set(path, false); err != nil && !errors.Is(err, os.ErrNotExist) && !errors.Is(err, errors.ErrUnsupported) {
			t.Error(err)
		}
	})
	return immutable.Set(path, true)
}
