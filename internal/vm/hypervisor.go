package vm

import "context"

// Hypervisor is all that a caller needs who saves VMs and rebuilds them and asks
// for nothing else. Package internal/house implements it over a Manager:
// to save and to rebuild takes rooms that stand above this one.
type Hypervisor interface {
	// Snapshot saves the VM that ref names. It goes on; name, which may be
	// empty, is that of the snapshot.
	Snapshot(ctx context.Context, ref, name string) error
	// Restore makes a running VM called name of the snapshot that ref names.
	Restore(ctx context.Context, ref, name string) (*VM, error)
}

// VM is what a caller gets to know of a virtual machine: its record.
type VM = Record
