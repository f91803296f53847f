package lease

import (
	"bytes"
	"errors"
	"strings"
	"testing"

	"github.com/cocoonv2/cocoon/internal/base/failure"
)

func FuzzParseLease(f *testing.F) {
	f.Add([]byte("for x\nsha256:" + strings.Repeat("0", 64) + "\nsnapshot:a\nvm:b\n"))
	f.Add([]byte("sha256:torn"))
	f.Fuzz(func(t *testing.T, b []byte) {
		h := Holding{Lease: "x"}
		n, err := parseLease(&h, b)
		if err != nil && !errors.Is(err, failure.Damaged) {
			t.Error(err)
		}
		if err == nil && n != bytes.LastIndexByte(b, '\n')+1 {
			t.Errorf("%d of %d bytes were read", n, len(b))
		}
		for _, d := range h.Digests {
			if d.Validate() != nil {
				t.Errorf("digest %q was let through", d)
			}
		}
	})
}
