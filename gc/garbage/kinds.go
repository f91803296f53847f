package garbage

// Kind of an object, of a root, or of both.
type Kind string

// Kinds of objects that a run may remove. A new one must be added to Kinds;
// docs/gc.md says when it goes.
const (
	Snapshot  Kind = "snapshot"
	Blob      Kind = "blob"
	Image     Kind = "image"
	Cache     Kind = "cache"
	VM        Kind = "vm"
	Lease     Kind = "lease"
	Ingest    Kind = "ingest"
	Journal   Kind = "journal"
	RunEntry  Kind = "run"
	Process   Kind = "process"
	Network   Kind = "network"
	Staging   Kind = "staging"
	Temporary Kind = "temporary"
	Name      Kind = "name"
	Trash     Kind = "trash"
)

// Kinds of roots beside Snapshot, VM, Image and Lease.
const (
	Asleep Kind = "suspended vm" // goes when its VM wakes
	Pin    Kind = "pin"
)

// Folder is no object, but can be lost.
const Folder Kind = "folder"

// Kinds of objects that a run may remove.
func Kinds() []Kind {
	return []Kind{Snapshot, Blob, Image, Cache, VM, Lease, Ingest, Journal, RunEntry, Process, Network, Staging, Temporary, Name, Trash}
}
