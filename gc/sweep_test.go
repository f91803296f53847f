package gc

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"testing"
)

// TestEveryNameOfALargeFolderIsListed: names come many at once, each once.
func TestEveryNameOfALargeFolderIsListed(t *testing.T) {
	for _, n := range []int{0, 1, namesAtOnce - 1, namesAtOnce, 2*namesAtOnce + 7} {
		dir := t.TempDir()
		var want []string
		for i := range n {
			name := fmt.Sprintf("%0*d", 5+i%3, i)
			if err := os.WriteFile(filepath.Join(dir, name), nil, 0o600); err != nil {
				t.Fatal(err)
			}
			want = append(want, name)
		}
		batches := make(chan []string, n+1)
		if err := listNames(dir, batches); err != nil {
			t.Fatal(err)
		}
		close(batches)
		var got []string
		for batch := range batches {
			got = append(got, batch...)
		}
		slices.Sort(got)
		slices.Sort(want)
		if !slices.Equal(got, want) {
			t.Errorf("%d names were listed of %d", len(got), n)
		}
	}
	if err := listNames(filepath.Join(t.TempDir(), "none"), make(chan []string, 1)); !os.IsNotExist(err) {
		t.Errorf("a folder that is missing: %v", err)
	}
}
