package gc

import "fmt"

// fingerprints of RAM go with the last snapshot that has that RAM, and when the
// host was started again: their key is gone.
func (c *collector) fingerprints(p *plan) error {
	all, err := c.st.Prints()
	if err != nil {
		return fmt.Errorf("gc: %w", err)
	}
	for _, f := range all {
		unowned := func() bool { return !c.roots.memory[f.Memory] }
		v := victim{kind: "cache", id: "fingerprints/" + f.Memory.Encoded(), path: f.Path, bytes: f.Bytes, inStore: true}
		switch {
		case !f.Current:
			v.reason = "made before the host was started"
		case unowned():
			v.reason, v.still = "no snapshot has this RAM any more", unowned
		default:
			continue
		}
		p.victims = append(p.victims, v)
	}
	return nil
}
