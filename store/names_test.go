package store

import (
	"fmt"
	"os"
	"testing"
)

// TestUnnamedSnapshotsDoNotMakeTheNamesGrow: they are written down without
// reading what is there, but now and then somebody looks.
func TestUnnamedSnapshotsDoNotMakeTheNamesGrow(t *testing.T) {
	s, err := Open(t.Context(), t.TempDir(), Options{Create: true})
	if err != nil {
		t.Fatal(err)
	}
	largest := int64(0)
	for i := range 20_000 { // none of them is there: they were removed
		if _, err := s.claimName(ID(fmt.Sprintf("%032x", i)), "", false); err != nil {
			t.Fatal(err)
		}
		fi, err := os.Stat(s.namesPath())
		if err != nil {
			t.Fatal(err)
		}
		largest = max(largest, fi.Size())
	}
	if bound := int64(2 * lookEvery); largest > bound {
		t.Errorf("the file grew to %d bytes, %d are enough", largest, bound)
	}
}
