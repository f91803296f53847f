package gc

import (
	"fmt"

	"github.com/cocoonv2/cocoon/gc/garbage"
	"github.com/cocoonv2/cocoon/internal/prints"
)

// fingerprints of an image go with its page map, and when the host was started
// again: their key is gone.
func (c *collector) fingerprints(p *plan) error {
	all, err := prints.List(c.st)
	if err != nil {
		return fmt.Errorf("gc: %w", err)
	}
	for _, f := range all {
		o := garbage.Object{Kind: garbage.Cache, ID: "fingerprints/" + f.PageMap.Encoded(), Path: f.Path, InStore: true}
		key, ok := garbage.DigestKey(f.PageMap)
		switch {
		case !f.Current:
			o.Reason = "made before the host was started"
		case ok && !p.held(key):
			o.Reason, o.Key = "nothing names the page map that it is of", key
		default:
			continue
		}
		c.Judge(o)
	}
	return nil
}
