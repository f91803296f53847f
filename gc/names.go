package gc

import (
	"context"

	"github.com/cocoonv2/cocoon/gc/garbage"
)

// names removes the links of names that no snapshot has any more, and makes
// missing ones. It runs after the windows, since links are made and removed under
// names.lock, which is not taken under the store lock.
func (c *collector) names(ctx context.Context) error {
	stale, err := c.st.Names().Stale(c.roots.named)
	if err == nil && !c.o.DryRun {
		stale, err = c.st.Names().Tidy(ctx, stale, c.roots.named)
	}
	for _, name := range stale {
		c.rep.Removed = append(c.rep.Removed, Removed{Kind: garbage.Name, ID: name, Reason: "no snapshot has it any more"})
	}
	return err
}
