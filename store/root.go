package store

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/cocoonv2/cocoon/internal/base/failure"
	"github.com/cocoonv2/cocoon/internal/base/spelling"
)

// JSONFiles lists the files *.json of a folder of the store.
func (s *Store) JSONFiles(folder string) ([]string, error) {
	entries, err := os.ReadDir(s.Path(folder))
	if err != nil {
		return nil, fmt.Errorf("list %s: %w", folder, err)
	}
	var files []string
	for _, e := range entries {
		if filepath.Ext(e.Name()) == ".json" && !strings.HasPrefix(e.Name(), ".") {
			files = append(files, s.Path(folder, e.Name()))
		}
	}
	return files, nil
}

// checkID refuses what no snapshot or VM is called.
func checkID(what, id string) error {
	if !spelling.ID(id) {
		return failure.New(failure.Damaged, "%s %.80q", what, id)
	}
	return nil
}
