package spelling

import (
	"strings"

	"github.com/cocoonv2/cocoon/internal/base/failure"
)

// prefixLength is the minimum length of an id prefix; shorter refs are names
// only.
const prefixLength = 3

// shown is how many of the matching ids are listed.
const shown = 4

// Find picks the one whose id is ref, or the only one whose id begins with it.
// failure.NotFound if there is none, failure.Conflict if there are several; both
// name the kind of object.
func Find[T any](kind, ref string, all []T, id func(T) string) (T, error) {
	var found, whole []T
	for _, x := range all {
		if id(x) == ref {
			whole = append(whole, x)
		}
		if len(ref) >= prefixLength && strings.HasPrefix(id(x), ref) {
			found = append(found, x)
		}
	}
	if len(whole) > 0 {
		found = whole
	}
	if len(found) == 1 {
		return found[0], nil
	}
	var none T
	if len(found) == 0 {
		return none, failure.New(failure.NotFound, "no %s %q", kind, ref)
	}
	var ids []string
	for _, x := range found[:min(len(found), shown)] {
		ids = append(ids, id(x))
	}
	return none, failure.New(failure.Conflict, "%s %q is ambiguous: %s", kind, ref, strings.Join(ids, ", "))
}
