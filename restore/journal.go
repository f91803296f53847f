package restore

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"github.com/cocoonv2/cocoon/internal/base/durable"
	"github.com/cocoonv2/cocoon/internal/base/failure"
	"github.com/cocoonv2/cocoon/internal/base/hint"
	"github.com/cocoonv2/cocoon/internal/base/spelling"
	"github.com/cocoonv2/cocoon/store"
)

// Journal is the durable note of a restore in progress: which VM to remove if
// nobody finishes it. File journals/<vm id>.json.
type Journal struct {
	VM       string    `json:"vm"`
	Snapshot string    `json:"snapshot"`
	Started  time.Time `json:"started"`
}

var journalFile = durable.Document{Name: "journal", Limit: 64 << 10}

func writeJournal(st *store.Store, j Journal) (string, error) {
	b, err := json.Marshal(j)
	if err != nil {
		return "", err
	}
	path := st.Path("journals", j.VM+".json")
	if err := journalFile.Write(path, b, 0o600); err != nil {
		return "", fmt.Errorf("write journal: %w", err)
	}
	return path, nil
}

func readJournal(path string) (*Journal, error) {
	b, err := journalFile.Read(path)
	if err != nil {
		return nil, err
	}
	var j Journal
	if err := durable.DecodeAll(b, &j); err != nil {
		return nil, failure.Hint(failure.New(failure.Damaged, "journal %s: %w", path, err), "if no newer cocoon wrote it: remove the file, and run "+hint.Collect.Of())
	}
	if !spelling.ID(j.VM) || filepath.Base(path) != j.VM+".json" {
		return nil, failure.New(failure.Damaged, "journal %s names VM %q", path, j.VM)
	}
	return &j, nil
}

// removeJournals of one store; one that is gone is no error.
func removeJournals(paths ...string) error {
	for _, p := range paths {
		if err := os.Remove(p); err != nil && !os.IsNotExist(err) {
			return err
		}
	}
	return durable.SyncDir(filepath.Dir(paths[0]))
}
