package document

import (
	"maps"
	"strings"

	"github.com/cocoonv2/cocoon/internal/base/failure"
)

// ReservedLabels begin labels by which this program tells things apart, such as
// what may be removed. Whoever else gives labels, a user or a document from
// elsewhere, gives none of these.
const ReservedLabels = "cocoon."

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

// CheckLabels refuses reserved labels that the snapshot did not have before; a
// new one had none.
func (m *Meta) CheckLabels(before map[string]string) error {
	given := maps.Clone(m.Labels)
	maps.DeleteFunc(given, func(k, v string) bool {
		was, had := before[k]
		return had && was == v
	})
	return CheckLabels(given)
}
