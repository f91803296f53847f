package sleep

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/cocoonv2/cocoon/internal/base/failure"
	"github.com/cocoonv2/cocoon/internal/base/parallel"
	"github.com/cocoonv2/cocoon/store"
	"github.com/cocoonv2/cocoon/store/document"
)

// Label marks a snapshot that was made only by suspending a VM: its value is the
// VM's id and, after a dot, how often the VM had been woken before. Once that VM
// no longer needs it, anybody who knows may remove it; without the label it is an
// ordinary snapshot.
const Label = document.ReservedLabels + "suspend"

// LabelOf is the value of Label.
func LabelOf(vm string, woken int) string { return fmt.Sprintf("%s.%d", vm, woken) }

// parseLabel reads it; earlier programs did not count.
func parseLabel(value string) (vm string, woken int) {
	vm, count, _ := strings.Cut(value, ".")
	woken, _ = strconv.Atoi(count)
	return vm, woken
}

// IsBed reports, from a snapshot's changeable metadata, whether it exists only
// for a suspended VM, awake now or not: the operator has not named or protected
// it, nor removed its label.
func IsBed(name string, labels map[string]string, protected bool) bool {
	return name == "" && labels[Label] != "" && !protected
}

// Bed is a snapshot that exists only for a suspended VM, awake now or not.
type Bed struct {
	Snapshot store.ID
	VM       string
	Woken    int // how often the VM had been woken when it fell asleep
}

// Beds lists them. It reads every meta.json.
func Beds(ctx context.Context, st *store.Store) ([]Bed, error) {
	ids, err := st.IDs()
	if err != nil {
		return nil, err
	}
	found := make([]Bed, len(ids))
	err = parallel.Each(len(ids), func(i int) (err error) {
		found[i], err = bedOf(st, ids[i])
		return errors.Join(err, ctx.Err())
	})
	if err != nil {
		return nil, err
	}
	return slices.DeleteFunc(found, func(b Bed) bool { return b.Snapshot == "" }), nil
}

// bedOf is the zero Bed where a snapshot is none, is gone, or does not say what it
// is for: that one stays.
func bedOf(st *store.Store, id store.ID) (Bed, error) {
	m, err := st.Meta(id)
	if errors.Is(err, failure.Damaged) || errors.Is(err, failure.NotFound) {
		return Bed{}, nil
	}
	if err != nil || !IsBed(m.Name, m.Labels, m.Protected) {
		return Bed{}, err
	}
	b := Bed{Snapshot: id}
	b.VM, b.Woken = parseLabel(m.Labels[Label])
	return b, nil
}

// Drop removes a snapshot if it is a bed. One that is already gone is success.
func Drop(ctx context.Context, st *store.Store, id store.ID) error {
	m, err := st.Meta(id)
	if errors.Is(err, failure.NotFound) {
		return nil
	}
	if err != nil || !IsBed(m.Name, m.Labels, m.Protected) {
		return err
	}
	err = st.Remove(ctx, id, store.RemoveOptions{})
	if errors.Is(err, failure.NotFound) {
		return nil
	}
	return err
}
