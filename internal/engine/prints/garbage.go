package prints

import (
	"context"

	"github.com/cocoonv2/cocoon/gc/garbage"
	"github.com/cocoonv2/cocoon/store"
)

// Garbage is the Source of fingerprints: those of an image go with its page map,
// and after a reboot, since their key is gone.
func Garbage(st *store.Store) garbage.Source {
	return garbage.Source{Folder: "cache/fingerprints", Objects: func(_ context.Context, r garbage.Run) error {
		all, err := List(st)
		if err != nil {
			return err
		}
		for _, f := range all {
			o := garbage.Object{Kind: garbage.Cache, ID: "fingerprints/" + f.PageMap.Encoded(), Path: f.Path, InStore: true}
			key, ok := garbage.DigestKey(f.PageMap)
			switch {
			case !f.Current:
				o.Reason = "made before the host was started"
			case ok && !r.Held(key):
				o.Reason, o.Key = "nothing names the page map that it is of", key
			default:
				continue
			}
			r.Judge(o)
		}
		return nil
	}}
}
