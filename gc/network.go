package gc

import (
	"context"
	"errors"
	"fmt"
	"strings"
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
		o, _ := parseObject("vm:" + l.VM)
		p.victims = append(p.victims, victim{kind: "network", id: l.VM, reason: why, object: o})
	}
	return nil
}

// removeNetworks follows the end of the VMMs, which hold the TAPs.
func (c *collector) removeNetworks(ctx context.Context, p *plan) error {
	var errs []error
	for _, v := range p.victims {
		if v.kind == "network" {
			errs = append(errs, c.o.Network.RemoveVM(ctx, v.id))
		}
	}
	return errors.Join(errs...)
}
