package image

import (
	_ "crypto/sha512" // the program links it, and so could read such digests
	"errors"
	"os"
	"strings"
	"testing"

	"github.com/opencontainers/go-digest"

	"github.com/cocoonv2/cocoon/internal/base/failure"
)

// FuzzRecord: a record names a blob by a digest that can be one, so that its path
// stays in the folder of the blobs.
func FuzzRecord(f *testing.F) {
	f.Add([]byte(`{"id":"` + string(digest.FromString("x")) + `","name":"disk","kind":"disk","format":"raw","bytes":4096,"created":"2026-01-02T03:04:05Z"}`))
	f.Add([]byte(`{"id":"sha256:../../../etc/shadow"}`))
	f.Add([]byte(`{"id":"sha512:` + strings.Repeat("0", 128) + `"}`))
	s, l := images(f)
	if err := l.Release(); err != nil {
		f.Fatal(err)
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		if err := os.WriteFile(s.recordPath("disk"), b, 0o600); err != nil {
			t.Fatal(err)
		}
		all, err := s.List(t.Context())
		if err != nil {
			if !errors.Is(err, failure.Damaged) {
				t.Errorf("%v is no damage", err)
			}
			return
		}
		rec := all[0]
		if rec.ID.Validate() != nil || rec.ID.Algorithm() != digest.SHA256 {
			t.Errorf("digest %q was let through", rec.ID)
		}
		if again, err := s.Get(t.Context(), string(rec.ID)); err != nil || again.ID != rec.ID {
			t.Errorf("%s is not found by its digest: %v", rec.ID, err)
		}
	})
}
