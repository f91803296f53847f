package garbage

import (
	"context"
	"errors"
	"os"

	"github.com/cocoonv2/cocoon/internal/base/durable"
)

// JudgeStray judges a small file that was being written to replace another: if
// its writer died, it is locked until the run is over, so nothing uses it.
// inStore is its path in the store.
func JudgeStray(r Run, id, path string, inStore bool) error {
	f, err := durable.Stray(path)
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err != nil || f == nil {
		return err
	}
	r.AtEnd(func() { _ = f.Close() })
	o := Object{
		Kind: Temporary, ID: id, Path: path, Reason: "its writer is dead", InStore: inStore, Last: true,
		Still: func() bool { _, err := os.Lstat(path); return err == nil }, // not with its folder
	}
	if !inStore {
		o.End = Remove(path)
	}
	r.Judge(o)
	return nil
}

// Remove is the End of what lies at a path.
func Remove(path string) func(context.Context) (string, error) {
	return func(context.Context) (string, error) { return "", os.RemoveAll(path) }
}
