package restore

import (
	"context"
	"fmt"

	"github.com/cocoonv2/cocoon/internal/base/failure"
	"github.com/cocoonv2/cocoon/internal/base/hint"
	"github.com/cocoonv2/cocoon/internal/engine/vm"
	"github.com/cocoonv2/cocoon/network"
)

// Rewire decides on which networks a VM without a process will be from now on:
// its own may be gone, or have other addresses. It keeps its interfaces, which
// the guest or the machine has; one wish applies to all of them, several are one
// each. The plans say what was chosen. Nothing is changed yet.
func (e *Engine) Rewire(rec *VM, wishes []Wish) ([]Network, []NetworkPlan, error) {
	if len(rec.Networks) == 0 {
		return nil, nil, failure.Hint(failure.New(failure.Usage, "VM %s has no interface that could be on a network", rec.Name),
			"save it while it runs and make another, or make it anew with "+hint.Networks.Of())
	}
	if len(wishes) > 1 && len(wishes) != len(rec.Networks) {
		return nil, nil, failure.New(failure.Usage, "%d networks given, VM %s has %d interfaces", len(wishes), rec.Name, len(rec.Networks))
	}
	var out []vm.Network
	var plans []NetworkPlan
	taps := 0
	for i, n := range rec.Networks {
		np, err := e.rewire(rec, i, wishFor(wishes, i))
		if err != nil {
			return nil, nil, fmt.Errorf("interface %s of VM %s: %w", n.ID, rec.Name, err)
		}
		if np.request.Network == network.Tap {
			taps++
		}
		np.describe(n.ID, n.Inside())
		np.request.VM, np.request.Index = rec.ID, i
		out, plans = append(out, vm.Network{ID: n.ID, Attachment: network.Wanted(np.request)}), append(plans, *np)
	}
	if taps > 0 && taps < len(out) {
		return nil, nil, failure.New(failure.Usage, "VM %s: TAPs of the host and other networks do not mix: the VMM can be in one netns only", rec.Name)
	}
	return out, plans, nil
}

// rewire decides about one interface.
func (e *Engine) rewire(rec *vm.Record, i int, w Wish) (*NetworkPlan, error) {
	n := rec.Networks[i]
	c := choice{Engine: e, self: rec.ID, index: i, wish: w, source: vm.Interface{ID: n.ID, Attachment: n.Attachment, Remembered: n.Inside(), SavedMTU: n.MTU}}
	c.remember(0, 0, "")
	switch {
	case w.How == Join && rec.Sleep != nil:
		return nil, failure.Hint(failure.New(failure.Usage, "a guest that resumes keeps its address"),
			hint.Networks.Of()+" keep"+equals(w.Wanted.Network)+" or fresh"+equals(w.Wanted.Network)+"; with "+hint.Cold.Of()+" it boots, and is told another")
	case w.How == Join:
		return c.join()
	}
	return c.decide()
}

// join attaches as for a new VM. The MAC is the device's unless another is
// requested.
func (c choice) join() (*NetworkPlan, error) {
	r := c.wish.Wanted
	if r.QueuePairs > 1 && r.QueuePairs != c.source.QueuePairs {
		return nil, failure.New(failure.Usage, "its device has %d queue pairs, and keeps them", max(c.source.QueuePairs, 1))
	}
	if r.QueuePairs = c.source.QueuePairs; r.MAC == "" {
		r.MAC = c.guest.MAC
	}
	if err := c.VMs.CheckNetwork(r.Network); err != nil {
		return nil, c.elsewhere(err)
	}
	if err := c.free(r); err != nil {
		return nil, err
	}
	return &NetworkPlan{How: Join, Why: "asked for", request: r}, nil
}

// Leave puts rec on the requested networks and detaches what it had; tell, which
// may be nil, receives each choice. Without wishes nothing happens. The VM's lock
// is held, and the caller saves the record once the VM runs: until then it is
// unchanged on disk.
func (e *Engine) Leave(ctx context.Context, rec *VM, wishes []Wish, tell func(NetworkPlan)) error {
	if len(wishes) == 0 {
		return nil
	}
	networks, plans, err := e.Rewire(rec, wishes)
	if err != nil {
		return err
	}
	for _, p := range plans {
		if tell != nil {
			tell(p)
		}
	}
	if err := e.VMs.Detach(ctx, rec.ID); err != nil {
		return fmt.Errorf("leave the networks of before: %w", err)
	}
	rec.Networks = networks
	return nil
}
