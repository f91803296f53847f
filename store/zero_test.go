package store

import (
	"errors"
	"testing"

	"github.com/cocoonv2/cocoon/internal/base/failure"
)

func TestAStoreWithoutAFolderIsNotTheWorkingFolder(t *testing.T) {
	t.Chdir(t.TempDir())
	for _, create := range []bool{false, true} {
		if _, err := Open(t.Context(), "", Options{Create: create}); !errors.Is(err, failure.Usage) {
			t.Errorf("create %v: %v, want Usage", create, err)
		}
	}
}
