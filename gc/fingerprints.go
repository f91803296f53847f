package gc

import (
	"fmt"

	"github.com/cocoonv2/cocoon/store"
)

// fingerprints of an image go with its page map, and when the host was started
// again: their key is gone.
func (c *collector) fingerprints(p *plan) error {
	all, err := c.st.Prints()
	if err != nil {
		return fmt.Errorf("gc: %w", err)
	}
	for _, f := range all {
		v := victim{kind: "cache", id: "fingerprints/" + f.PageMap.Encoded(), path: f.Path, bytes: store.FileBytes(f.Path), inStore: true}
		o, ok := parseObject(string(f.PageMap))
		switch {
		case !f.Current:
			v.reason = "made before the host was started"
		case ok && !p.held(o):
			v.reason, v.object = "nothing names the page map that it is of", o
		default:
			continue
		}
		p.victims = append(p.victims, v)
	}
	return nil
}
