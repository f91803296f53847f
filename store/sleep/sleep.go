// Package sleep protects the snapshots of suspended VMs: the snapshot that is a
// VM's RAM stays as long as the VM is suspended on it, and is removed afterwards
// if it has no other use.
//
// Words: a VM sleeps exactly while vms/<id>/suspend.json exists, a suspension; it
// names the snapshot. A bed is a snapshot made only by a suspension, as its label
// says, which the operator has not claimed since by naming or protecting it. A
// sleeper is a suspended VM, on a bed or on any other snapshot.
//
// Package vm writes these files; this package knows only what is needed to keep a
// snapshot, so that code that removes or collects snapshots need not know what a
// VM is. A store that removes is opened with Veto.
package sleep

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"github.com/cocoonv2/cocoon/internal/base/durable"
	"github.com/cocoonv2/cocoon/internal/base/failure"
	"github.com/cocoonv2/cocoon/internal/base/hint"
	"github.com/cocoonv2/cocoon/internal/base/spelling"
	"github.com/cocoonv2/cocoon/store"
)

// File in the folder of a VM says that it is suspended, and on which snapshot:
// nothing removes that one until the file is gone.
const File = "suspend.json"

// RecordLimit bounds the record of a VM, bytes; Document has one in it.
const RecordLimit = 8 << 20

// Document is how File is written and read.
var Document = durable.Document{Name: File, Limit: 2 * RecordLimit}

// Suspension is the contents of a File; its record is its VM's to read.
type Suspension struct {
	Version  int       `json:"version"`
	Snapshot store.ID  `json:"snapshot"`
	Since    time.Time `json:"since"`
	// Aside says that the VM was only put aside while another state was to
	// replace it: if that work is abandoned, the VM is to run again.
	Aside  bool            `json:"aside,omitempty"`
	Record json.RawMessage `json:"record"`
}

// Version of a Suspension that this program writes and reads.
const Version = 1

// Decode reads the File of a VM. failure.Damaged for one of another VM or version.
func Decode(b []byte, vm string) (*Suspension, error) {
	var s Suspension
	var of store.VMRef
	err := json.Unmarshal(b, &s)
	if err == nil {
		err = json.Unmarshal(s.Record, &of)
	}
	switch {
	case err != nil:
		return nil, failure.New(failure.Damaged, "%s of VM %s: %w", File, vm, err)
	case s.Version != Version:
		return nil, failure.New(failure.Damaged, "%s of VM %s has version %d, this program knows %d", File, vm, s.Version, Version)
	case of.ID != vm || !spelling.ID(string(s.Snapshot)):
		return nil, failure.New(failure.Damaged, "%s of VM %s is of VM %.40q, snapshot %.40q", File, vm, of.ID, s.Snapshot)
	}
	return &s, nil
}

// Sleeper is a suspended VM.
type Sleeper struct {
	VM   store.VMRef
	File string
}

func (s Sleeper) String() string { return fmt.Sprintf("suspended vm %s (%s)", s.VM.Name, s.VM.ID) }

// Sleepers lists the suspended VMs by the snapshot that each needs.
func Sleepers(st *store.Store) (map[store.ID]Sleeper, error) {
	files, err := filepath.Glob(st.Path("vms", "*", File))
	if err != nil {
		return nil, err
	}
	all := map[store.ID]Sleeper{}
	for _, path := range files {
		b, err := Document.Read(path)
		if errors.Is(err, os.ErrNotExist) {
			continue // woken meanwhile
		}
		if err != nil {
			return nil, err
		}
		f, err := Decode(b, filepath.Base(filepath.Dir(path)))
		if err != nil {
			return nil, err
		}
		var of store.VMRef
		if err := json.Unmarshal(f.Record, &of); err != nil {
			return nil, failure.New(failure.Damaged, "%s: %w", path, err)
		}
		all[f.Snapshot] = Sleeper{VM: of, File: path}
	}
	return all, nil
}

// Veto refuses the removal of a snapshot that a suspended VM needs, even by
// force. It is for store.Options.
func Veto(_ context.Context, st *store.Store, id store.ID) error {
	all, err := Sleepers(st)
	if err != nil {
		return err
	}
	who, ok := all[id]
	if !ok {
		return nil
	}
	return failure.Hint(failure.New(failure.Conflict, "snapshot %s is the RAM of %s", id, who),
		hint.Wake.Of(who.VM.Name)+" resumes it; with "+hint.Cold.Of()+" it boots from its disks and discards its RAM")
}
