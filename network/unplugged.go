package network

import (
	"fmt"

	"github.com/vishvananda/netlink"
)

// defaultMTU is that of Ethernet, bytes.
const defaultMTU = 1500

// unplugged makes the TAP of an unconnected interface, in the netns of the
// thread: the VMM of a saved VM cannot start without the interface that the guest
// has.
func unplugged(a *Attachment) error {
	if a.MTU == 0 {
		a.MTU = defaultMTU
	}
	tap, err := makeTap(a.Tap, a.MTU, a.QueuePairs)
	if err != nil {
		return err
	}
	if err := netlink.LinkSetUp(tap); err != nil {
		return fmt.Errorf("set TAP %s up: %w", a.Tap, err)
	}
	return nil
}
