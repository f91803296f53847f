package repair

import (
	"context"
	"errors"
	"os"

	"github.com/cocoonv2/cocoon/gc/garbage"
	"github.com/cocoonv2/cocoon/store"
	"github.com/cocoonv2/cocoon/store/layout"
)

// Garbage is the Source of the notes that a blob is damaged: they go with the blob.
func Garbage(st *store.Store) garbage.Source {
	return garbage.Source{Objects: func(_ context.Context, r garbage.Run) error {
		err := layout.EachEntry(st.Path("cache", "damaged"), func(name []byte, _ uint64) {
			if key, ok := garbage.BlobKey(string(name)); ok && !r.Held(key) {
				r.Judge(garbage.Object{
					Kind: garbage.Cache, ID: "damaged/" + string(name), Path: st.Path("cache", "damaged", string(name)), InStore: true, Key: key,
					Reason: "nothing names the blob that it warns of",
				})
			}
		})
		if errors.Is(err, os.ErrNotExist) {
			return nil
		}
		return err
	}}
}
