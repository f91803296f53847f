package store

import (
	"errors"
	"path/filepath"
	"testing"

	"github.com/cocoonv2/cocoon/internal/failure"
)

func TestAStoreWithoutAFolderIsNotTheWorkingFolder(t *testing.T) {
	t.Chdir(t.TempDir())
	for _, create := range []bool{false, true} {
		if _, err := Open(t.Context(), "", Options{Create: create}); !errors.Is(err, failure.Usage) {
			t.Errorf("create %v: %v, want Usage", create, err)
		}
	}
}

// A slice that is none has no blobs, and would find no damage in any store.
func TestASliceThatIsNoneVerifiesNothing(t *testing.T) {
	s, err := Open(t.Context(), filepath.Join(t.TempDir(), "root"), Options{Create: true})
	if err != nil {
		t.Fatal(err)
	}
	for _, o := range []VerifyOptions{{Parts: 3}, {Part: 4, Parts: 3}, {Part: -1, Parts: 3}, {Parts: -1}, {Part: 1, Parts: -1}} {
		o.ReadData = true
		if _, err := s.Verify(t.Context(), nil, o); !errors.Is(err, failure.Usage) {
			t.Errorf("%d of %d: %v, want Usage", o.Part, o.Parts, err)
		}
	}
	for _, o := range []VerifyOptions{{}, {Part: 3, Parts: 3}} {
		if _, err := s.Verify(t.Context(), nil, o); err != nil {
			t.Errorf("%d of %d: %v", o.Part, o.Parts, err)
		}
	}
}
