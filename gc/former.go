package gc

import (
	"path/filepath"

	"github.com/cocoonv2/cocoon/gc/garbage"
)

// former takes the derived files of earlier programs.
func (c *collector) former(*plan) error {
	for _, path := range c.st.Index().Former() {
		c.Judge(garbage.Object{Kind: garbage.Cache, ID: filepath.Base(path), Path: path, InStore: true, Reason: "an earlier program derived it"})
	}
	return nil
}
