package gc

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/cocoonv2/cocoon/gc/garbage"
	"github.com/cocoonv2/cocoon/internal/base/hostfacts"
)

// failuresTold limits how many objects the error of a run names; the report names
// all.
const failuresTold = 5

// failures are objects that could not be removed: reported at the end of the run,
// and no reason to keep anything else.
type failures struct {
	first []error
	count int
}

// fail notes that a victim stays.
func (c *collector) fail(v *victim, err error) {
	v.failed = true
	c.rep.Failed = append(c.rep.Failed, Failed{v.Kind, v.ID, v.bytes, oneLine(err)})
	c.failures.add(fmt.Errorf("%s %s cannot be removed: %w", v.Kind, v.ID, err))
}

func (f *failures) add(err error) {
	if f.count++; f.count <= failuresTold {
		f.first = append(f.first, err)
	}
}

func (f *failures) err() error {
	err := errors.Join(f.first...)
	if more := f.count - len(f.first); more > 0 {
		err = errors.Join(err, fmt.Errorf("and %d more", more))
	}
	return err
}

func oneLine(err error) string { return strings.ReplaceAll(err.Error(), "\n", "; ") }

// failTrash notes that an entry of the trash stays; what an earlier run could not
// unlink is a victim of this run.
func (c *collector) failTrash(p *plan, name string, err error) {
	at := slices.IndexFunc(p.victims, func(v victim) bool { return v.Kind == garbage.Trash && v.ID == name })
	if at < 0 {
		p.victims = append(p.victims, victim{Object: garbage.Object{Kind: garbage.Trash, ID: name}})
		at = len(p.victims) - 1
	}
	v := &p.victims[at]
	v.bytes = hostfacts.FileBytes(c.st.Path("trash", name))
	c.fail(v, err)
}
