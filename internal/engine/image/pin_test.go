package image

import (
	"errors"
	"os"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/opencontainers/go-digest"

	"github.com/cocoonv2/cocoon/gc/garbage"
	"github.com/cocoonv2/cocoon/internal/base/failure"
	"github.com/cocoonv2/cocoon/store"
)

// TestAPinIsReadAsItWasWritten: by its Source, which gc asks, and by the list.
func TestAPinIsReadAsItWasWritten(t *testing.T) {
	st, err := store.Open(t.Context(), t.TempDir(), store.Options{Create: true})
	if err != nil {
		t.Fatal(err)
	}
	i, d := New(st), digest.FromString("kernel")
	l, err := st.Lease(t.Context(), "test")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Release()
	if err := i.Pin(t.Context(), l, d, "tiny"); !errors.Is(err, failure.NotFound) {
		t.Errorf("an image that is not there: %v", err)
	}
	if err := os.WriteFile(i.Path(d), []byte("kernel"), 0o400); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		if err := i.Pin(t.Context(), l, d, "tiny"); err != nil {
			t.Fatal(err)
		}
	}
	pins, err := i.Pins(t.Context())
	if diff := cmp.Diff([]*Pin{{Version: 1, ID: d.Encoded(), Name: "tiny", Digests: []digest.Digest{d}}}, pins); err != nil || diff != "" {
		t.Fatalf("%v (-want +got):\n%s", err, diff)
	}
	root, err := Pins(st).Read(i.pinPath(d.Encoded()))
	if diff := cmp.Diff(garbage.Root{Kind: garbage.Pin, ID: d.Encoded(), Name: "tiny", Digests: []digest.Digest{d}}, root); err != nil || diff != "" {
		t.Errorf("%v (-want +got):\n%s", err, diff)
	}
	if err := i.Unpin(t.Context(), "tiny", d); err != nil {
		t.Fatal(err)
	}
	if traces, err := st.Trash().Traces(); err != nil || len(traces) != 1 || traces[0].Kind != "pin" || traces[0].ID != d.Encoded() {
		t.Errorf("traces %v, %v", traces, err)
	}
	if err := i.Unpin(t.Context(), "tiny", d); !errors.Is(err, failure.NotFound) {
		t.Errorf("unpinned twice: %v", err)
	}
}
