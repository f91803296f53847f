package vm

// State is in what state a VM is, as the record and `vm list` say it.
type State string

// The states of a VM.
const (
	Created   State = "created"
	Running   State = "running"
	Paused    State = "paused"
	Suspended State = "suspended"
	Stopped   State = "stopped"
	Broken    State = "error"
	// Elsewhere is that of a VM whose VMM lives, as the locks on its files tell,
	// where this command cannot see it: in a PID namespace that is not ours.
	Elsewhere State = "elsewhere"
	// Shutdown is that of a VM whose guest is off in a VMM that lives: a record never
	// says so.
	Shutdown State = "shutdown"
)

// Up: there is a guest in it, whether it runs or stands still.
func (s State) Up() bool { return s == Running || s == Paused }
