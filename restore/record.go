package restore

import "github.com/cocoonv2/cocoon/internal/engine/vm"

// fillRecord makes rec a complete record: what the guest saw at capture, so
// that stop and start are a cold boot of the same machine.
func fillRecord(rec *vm.Record, p *Plan) {
	p.source.Fill(rec)
	wantNetworks(rec, p)
	rec.Snapshot = string(p.SnapshotID)
}
