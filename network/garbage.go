package network

import (
	"context"
	"fmt"
	"strings"

	"github.com/cocoonv2/cocoon/gc/garbage"
	"github.com/cocoonv2/cocoon/internal/base/failure"
	"github.com/cocoonv2/cocoon/internal/base/hint"
)

// Attached is what Garbage needs of a Host.
type Attached interface {
	// Attached lists the ids of all VMs that have anything on the network.
	Attached() ([]string, error)
	// Leftovers lists VMs that have something on the network and are not in live.
	Leftovers(live []string) ([]Leftover, error)
	// RemoveVM undoes the network of a VM whose VMM has ended.
	RemoveVM(ctx context.Context, id string) error
	// DropRecords forgets a VM whose network belongs to another store.
	DropRecords(ctx context.Context, id string) error
	// ForgetVM is RemoveVM without the plugins: what they keep elsewhere stays.
	ForgetVM(ctx context.Context, id string) error
}

// Garbage is the Source for networks: interfaces, netns, leases and NAT of VMs
// that do not exist. The id of an object is the VM's.
func Garbage(h Attached) garbage.Source {
	return garbage.Source{Folder: "network", Objects: func(_ context.Context, r garbage.Run) error {
		if err := collect(h, r); err != nil {
			return fmt.Errorf("networks: %w", err)
		}
		return nil
	}}
}

func collect(h Attached, r garbage.Run) error {
	attached, err := h.Attached()
	if err != nil {
		return err
	}
	var live []string
	for _, id := range attached {
		if key, ok := garbage.VMKey(id); ok && r.Held(key) {
			live = append(live, id)
			r.Judge(garbage.Object{Kind: garbage.Network, ID: id, Key: key})
		}
	}
	left, err := h.Leftovers(live)
	if err != nil {
		return err
	}
	for _, l := range left {
		key, _ := garbage.VMKey(l.VM)
		r.Judge(garbage.Object{
			Kind: garbage.Network, ID: l.VM, Key: key, Reason: l.why(), Last: true,
			End: func(ctx context.Context) (string, error) { return end(ctx, h, r, l) },
		})
	}
	return nil
}

func (l *Leftover) why() string {
	if l.Owner != "" {
		return "the record only; what it tells of belongs to " + l.Owner
	}
	why := "its VM does not exist: " + strings.Join(l.Ifnames, " ")
	if l.Netns != "" {
		why += " in netns " + l.Netns
	}
	return why
}

// end undoes the network of a VM; if its plugins cannot and the operator has
// abandoned it, it is dropped.
func end(ctx context.Context, h Attached, r garbage.Run, l Leftover) (more string, err error) {
	if l.Owner != "" {
		return "", h.DropRecords(ctx, l.VM)
	}
	if err = h.RemoveVM(ctx, l.VM); err == nil {
		return "", nil
	}
	if r.GivenUp(l.VM) {
		return "; given up: " + strings.ReplaceAll(err.Error(), "\n", "; "), h.ForgetVM(ctx, l.VM)
	}
	return "", failure.Hint(err, "fix what the plugin reports and repeat the command, or abandon what it keeps elsewhere: "+hint.ForgetNetwork.Of(l.VM))
}
