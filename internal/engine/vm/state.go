package vm

// State is the state of a VM, as in the record and in `vm list`.
type State string

// The states of a VM.
const (
	Created   State = "created"
	Running   State = "running"
	Paused    State = "paused"
	Suspended State = "suspended"
	Stopped   State = "stopped"
	Broken    State = "error"
	// Elsewhere: the VMM lives, as the locks on its files show, but is not
	// visible to this command: it is in another PID namespace.
	Elsewhere State = "elsewhere"
	// Shutdown: the guest is off but its VMM lives. A record never has this
	// state.
	Shutdown State = "shutdown"
)

// Up: it has a guest, running or paused.
func (s State) Up() bool { return s == Running || s == Paused }
