package restore

import (
	"context"
	"fmt"
	"reflect"

	"github.com/cocoonv2/cocoon/internal/failure"
	"github.com/cocoonv2/cocoon/internal/vm"
	"github.com/cocoonv2/cocoon/store"
)

// readBlueprint makes the plan one of the VM that the snapshot makes. It is judged
// each time: what another program took in may not have been, and what is
// encrypted could not be without its key.
func (e *Engine) readBlueprint(ctx context.Context, p *Plan, sn *store.Snapshot) error {
	c, s, err := e.readConfig(ctx, sn)
	if err != nil {
		return err
	}
	b, err := vm.Agree(vm.Documents{Spec: &sn.Spec, Config: c, State: s, Own: !sn.Foreign()})
	if err != nil {
		return fmt.Errorf("snapshot %s: %w", sn.ID, err)
	}
	if p.source != nil && !reflect.DeepEqual(p.source, b) {
		return failure.New(failure.Conflict, "snapshot %s was replaced by another of its id", sn.ID)
	}
	p.source, p.config, p.state = b, c, s
	return nil
}

// fillRecord makes rec a complete record: what the guest saw at capture, so
// that stop and start are a cold boot of the same machine.
func fillRecord(rec *vm.Record, p *Plan) {
	p.source.Fill(rec)
	wantNetworks(rec, p)
	rec.Snapshot = string(p.SnapshotID)
}
