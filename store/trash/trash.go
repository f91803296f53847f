// Package trash is how things leave a store: by one rename out of their folder
// into trash/, which is an instant and may be done under a lock, and by an unlink
// there, which takes long and may not.
//
// Two leave by it. A verb removes a root, such as a snapshot or the record of a
// VM (Remove): what it renames has the kind and the id in its name, a trace, and
// keeps it, emptied, until a collector has taken note. So the removal and its trace
// are one step, and what is gone without a trace was lost. A collector discards
// what nobody needs (Run): windows in which nobody else publishes, removes or
// leases, as short as can be, each of which moves some of it into a folder of the
// run.
//
// What lies in the trash is nobody's any more, whoever put it there and died.
package trash

import (
	"context"
	"errors"
	"fmt"
	"os"

	"github.com/cocoonv2/cocoon/internal/base/durable"
	"github.com/cocoonv2/cocoon/store/layout"
)

// Trash is the folder trash of a store.
type Trash struct{ at *layout.Layout }

// In is the trash of a store.
func In(at *layout.Layout) *Trash { return &Trash{at} }

func (t *Trash) path(entry string) string { return t.at.Path("trash", entry) }

// Collector is what only a collector may do with the trash: whoever else forgot a
// trace would make of a removal a loss.
type Collector struct{ *Trash }

// Empty unlinks what was discarded, by this run or by earlier ones that died; it
// takes no lock. Traces are emptied, and stay. What cannot be unlinked is reported
// to stays, by the name of its entry, and keeps nothing else.
func (c Collector) Empty(ctx context.Context, stays func(name string, err error)) error {
	entries, err := os.ReadDir(c.at.Path("trash"))
	if err != nil {
		return fmt.Errorf("empty trash: %w", err)
	}
	for _, e := range entries {
		remove := os.RemoveAll
		if _, ok := TraceOf(e.Name()); ok {
			remove = Clear
		}
		if err := remove(c.path(e.Name())); err != nil {
			stays(e.Name(), err)
		}
		durable.Step("store.trash.unlinked")
	}
	return ctx.Err()
}

// Forget removes traces that were taken note of.
func (c Collector) Forget(noted []Trace) error {
	var errs []error
	for _, t := range noted {
		errs = append(errs, os.RemoveAll(c.path(t.Entry)))
	}
	return errors.Join(errs...)
}
