package spelling

import (
	"errors"
	"strings"
	"testing"

	"github.com/cocoonv2/cocoon/internal/base/failure"
)

// TestAnIdIsFoundByItsFirstCharacters, three at least, which nobody else has.
func TestAnIdIsFoundByItsFirstCharacters(t *testing.T) {
	all := []string{"abcd0", "abcd1", "abce2", "xyz", "xyzz", "no0", "no01", "no02", "no03", "no04", "no05"}
	for _, c := range []struct {
		ref, want string
		class     error
		says      string
	}{
		{"abcd0", "abcd0", nil, ""},
		{"abce", "abce2", nil, ""},
		{"xyz", "xyz", nil, ""}, // whole, though others begin with it
		{"xyzz", "xyzz", nil, ""},
		{"abcd", "", failure.Conflict, `thing "abcd" is ambiguous: abcd0, abcd1`},
		{"no0", "no0", nil, ""},
		{"ab", "", failure.NotFound, `no thing "ab"`}, // too short to mean one
		{"", "", failure.NotFound, `no thing ""`},
		{"abcd00", "", failure.NotFound, `no thing "abcd00"`},
	} {
		got, err := Find("thing", c.ref, all, func(s string) string { return s })
		if got != c.want || !errors.Is(err, c.class) || err != nil && err.Error() != c.says {
			t.Errorf("%q: %q, %v", c.ref, got, err)
		}
	}
	if _, err := Find("thing", "xyz", append(all, "xyz"), func(s string) string { return s }); !errors.Is(err, failure.Conflict) {
		t.Errorf("two of one id: %v", err)
	}
	_, err := Find("thing", "no00", append(all, "no001", "no002", "no003", "no004", "no005"), func(s string) string { return s })
	if err == nil || strings.Count(err.Error(), "no00") != 1+shown {
		t.Errorf("of many: %v", err)
	}
}
