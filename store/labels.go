package store

import (
	"fmt"
	"maps"
	"strconv"
	"strings"

	"github.com/cocoonv2/cocoon/internal/base/failure"
)

// ReservedLabels begin labels by which this program tells things apart, such as
// what may be removed. Whoever else gives labels, a user or a document from
// elsewhere, gives none of these.
const ReservedLabels = "cocoon."

// SuspendLabel marks a snapshot that was made only so that a VM can sleep: its
// value is the VM's id and, behind a dot, how often the VM had been woken before.
// Once that VM does not need it any more, whoever knows so may remove it; without
// the label it is a snapshot like any other.
const SuspendLabel = ReservedLabels + "suspend"

// SleepLabel is the value of SuspendLabel.
func SleepLabel(vm string, woken int) string { return fmt.Sprintf("%s.%d", vm, woken) }

// parseSleepLabel reads it; earlier programs did not count.
func parseSleepLabel(value string) (vm string, woken int) {
	vm, count, _ := strings.Cut(value, ".")
	woken, _ = strconv.Atoi(count)
	return vm, woken
}

// CheckLabels refuses reserved ones.
func CheckLabels(labels map[string]string) error {
	for k := range labels {
		if strings.HasPrefix(k, ReservedLabels) {
			return failure.New(failure.Usage, "label %q: labels that begin with %q are cocoon's own", k, ReservedLabels)
		}
	}
	return nil
}

// FreeLabels are those that are not reserved.
func FreeLabels(labels map[string]string) map[string]string {
	if CheckLabels(labels) == nil {
		return labels
	}
	free := maps.Clone(labels)
	maps.DeleteFunc(free, func(k, _ string) bool { return strings.HasPrefix(k, ReservedLabels) })
	return free
}

// checkLabels refuses reserved labels that the snapshot did not have before; a
// new one had none.
func (m *Meta) checkLabels(before map[string]string) error {
	given := maps.Clone(m.Labels)
	maps.DeleteFunc(given, func(k, v string) bool {
		was, had := before[k]
		return had && was == v
	})
	return CheckLabels(given)
}
