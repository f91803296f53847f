package gc

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"github.com/cocoonv2/cocoon/internal/failure"
)

// networks: interfaces, netns, leases and NAT of VMs that do not exist. Kind
// "network", the id is the VM's.
func (c *collector) networks(p *plan) error {
	if c.o.Network == nil {
		return nil
	}
	attached, err := c.o.Network.Attached()
	if err != nil {
		return fmt.Errorf("gc: networks: %w", err)
	}
	var live []string
	for _, id := range attached {
		if o, ok := parseObject("vm:" + id); ok && p.held(o) {
			live = append(live, id)
			p.keep("network", id, o, 0)
		}
	}
	left, err := c.o.Network.Leftovers(live)
	if err != nil {
		return fmt.Errorf("gc: networks: %w", err)
	}
	for _, l := range left {
		why := "its VM does not exist: " + strings.Join(l.Ifnames, " ")
		if l.Netns != "" {
			why += " in netns " + l.Netns
		}
		if l.Owner != "" {
			why = "the record only; what it tells of belongs to " + l.Owner
		}
		o, _ := parseObject("vm:" + l.VM)
		p.victims = append(p.victims, victim{kind: "network", id: l.VM, reason: why, object: o, foreign: l.Owner != ""})
	}
	return nil
}

// removeNetwork undoes what stands for a VM; where its plugins cannot and the
// operator has given it up, it is dropped.
func (c *collector) removeNetwork(ctx context.Context, v *victim) error {
	if v.kind != "network" {
		return nil
	}
	if v.foreign {
		return c.o.Network.DropRecords(ctx, v.id)
	}
	err := c.o.Network.RemoveVM(ctx, v.id)
	if err == nil {
		return nil
	}
	if c.forgets(v.id) {
		v.reason += "; given up: " + oneLine(err)
		return c.o.Network.ForgetVM(ctx, v.id)
	}
	return failure.Hint(err, "mend what the plugin names and repeat the command, or give up what it keeps elsewhere: cocoon gc --forget-network "+v.id)
}

// forgets: the operator has given up the network of this VM.
func (c *collector) forgets(id string) bool {
	return slices.ContainsFunc(c.o.ForgetNetworks, func(part string) bool { return strings.HasPrefix(id, part) })
}
