package document

import (
	"testing"

	"github.com/cocoonv2/cocoon/internal/base/spelling"
	"github.com/cocoonv2/cocoon/store/pack"
)

func FuzzDecodeSpec(f *testing.F) {
	f.Add([]byte(`{"version":1,"id":"00000000000000000000000000000000"}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		sp, err := DecodeSpec(b)
		if err == nil && (!spelling.ID(string(sp.ID)) || sp.CHConfig.Validate() != nil) {
			t.Errorf("%+v was let through", sp)
		}
	})
}

func FuzzReadManifest(f *testing.F) {
	f.Add([]byte(`{"schemaVersion":2,"artifactType":"application/vnd.cocoon.snapshot.v1","config":{"digest":"sha256:x","size":-1}}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		sn := &Snapshot{}
		if sn.ReadManifest(b) == nil && (sn.Manifest.Config.Digest.Validate() != nil || sn.StoredBytes < 0) {
			t.Errorf("%+v was let through", sn.Manifest)
		}
	})
}

// TestAPackFromElsewhereMayBeAsLargeAsOneOfOurs, and no larger.
func TestAPackFromElsewhereMayBeAsLargeAsOneOfOurs(t *testing.T) {
	if foreignPackBytes != pack.MaxPackBytes {
		t.Errorf("%d bytes are taken, a pack has up to %d", foreignPackBytes, pack.MaxPackBytes)
	}
}
