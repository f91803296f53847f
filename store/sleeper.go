package store

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
	"github.com/cocoonv2/cocoon/internal/base/spelling"
)

// SleepFile in the folder of a VM says that it is suspended, and on which
// snapshot: nothing removes that one until the file is gone.
const SleepFile = "suspend.json"

// RecordLimit bounds the record of a VM, bytes; SleepDocument has one in it.
const RecordLimit = 8 << 20

// SleepDocument is how SleepFile is written and read.
var SleepDocument = durable.Document{Name: SleepFile, Limit: 2 * RecordLimit}

// Suspension is the contents of a SleepFile; its record is its VM's to read.
type Suspension struct {
	Version  int       `json:"version"`
	Snapshot ID        `json:"snapshot"`
	Since    time.Time `json:"since"`
	// Aside says that the VM was only put aside while another state was to take
	// its place: if nobody does so any more, it is to run again.
	Aside  bool            `json:"aside,omitempty"`
	Record json.RawMessage `json:"record"`
}

// SuspensionVersion is what this program writes and reads.
const SuspensionVersion = 1

// DecodeSuspension reads the SleepFile of a VM. failure.Damaged for one of another
// VM or version.
func DecodeSuspension(b []byte, vm string) (*Suspension, error) {
	var s Suspension
	var of VMRef
	err := json.Unmarshal(b, &s)
	if err == nil {
		err = json.Unmarshal(s.Record, &of)
	}
	switch {
	case err != nil:
		return nil, failure.New(failure.Damaged, "%s of VM %s: %w", SleepFile, vm, err)
	case s.Version != SuspensionVersion:
		return nil, failure.New(failure.Damaged, "%s of VM %s has version %d, this program knows %d", SleepFile, vm, s.Version, SuspensionVersion)
	case of.ID != vm || !spelling.ID(string(s.Snapshot)):
		return nil, failure.New(failure.Damaged, "%s of VM %s is of VM %.40q, snapshot %.40q", SleepFile, vm, of.ID, s.Snapshot)
	}
	return &s, nil
}

// Sleeper is a suspended VM.
type Sleeper struct {
	VM   VMRef
	File string
}

func (s Sleeper) String() string { return fmt.Sprintf("suspended vm %s (%s)", s.VM.Name, s.VM.ID) }

// Sleepers lists the suspended VMs by the snapshot that each needs.
func (s *Store) Sleepers(context.Context) (map[ID]Sleeper, error) {
	files, err := filepath.Glob(s.Path("vms", "*", SleepFile))
	if err != nil {
		return nil, err
	}
	all := map[ID]Sleeper{}
	for _, path := range files {
		b, err := SleepDocument.Read(path)
		if errors.Is(err, os.ErrNotExist) {
			continue // woken meanwhile
		}
		if err != nil {
			return nil, err
		}
		f, err := DecodeSuspension(b, filepath.Base(filepath.Dir(path)))
		if err != nil {
			return nil, err
		}
		var of VMRef
		if err := json.Unmarshal(f.Record, &of); err != nil {
			return nil, failure.New(failure.Damaged, "%s: %w", path, err)
		}
		all[f.Snapshot] = Sleeper{VM: of, File: path}
	}
	return all, nil
}

// refuseSleeper: not even force takes the RAM of a suspended VM.
func (s *Store) refuseSleeper(ctx context.Context, id ID) error {
	all, err := s.Sleepers(ctx)
	if err != nil {
		return err
	}
	who, ok := all[id]
	if !ok {
		return nil
	}
	return failure.Hint(failure.New(failure.Conflict, "snapshot %s is the RAM of %s", id, who),
		"cocoon vm start "+who.VM.Name+" lets it go on; with --cold it boots from its disks and gives up its RAM")
}

// forSleep says whether a snapshot is only there for a VM to sleep on: the
// operator has not named or protected it, nor taken its label.
func (m Meta) forSleep() bool { return m.Name == "" && m.Labels[SuspendLabel] != "" && !m.Protected }

// Bed tells whether a snapshot is only there for a VM to sleep on, awake or not.
func (s *Summary) Bed() bool {
	return Meta{Name: s.Name, Labels: s.Labels, Protected: s.Protected}.forSleep()
}

// Bed is a snapshot that is only there for a VM to sleep on, awake or not.
type Bed struct {
	Snapshot ID
	VM       string
	Woken    int // how often the VM had been woken when it fell asleep
}

// Beds lists them. It reads every meta.json.
func (s *Store) Beds(ctx context.Context) ([]Bed, error) {
	ids, err := s.IDs()
	if err != nil {
		return nil, err
	}
	found := make([]*Bed, len(ids))
	err = inParallel(len(ids), func(i int) error {
		m, err := readMeta(s.Path("snapshots", string(ids[i])))
		if err == nil && m.forSleep() {
			b := Bed{Snapshot: ids[i]}
			b.VM, b.Woken = parseSleepLabel(m.Labels[SuspendLabel])
			found[i] = &b
		}
		if errors.Is(err, failure.Damaged) || errors.Is(err, failure.NotFound) {
			err = nil // what it is for is not known, so it stays; or it is gone
		}
		return errors.Join(err, ctx.Err())
	})
	if err != nil {
		return nil, err
	}
	var beds []Bed
	for _, b := range found {
		if b != nil {
			beds = append(beds, *b)
		}
	}
	return beds, nil
}

// DropSuspended removes a snapshot if it is only there for a VM to sleep on. One
// that is gone already is success.
func (s *Store) DropSuspended(ctx context.Context, id ID) error {
	m, err := readMeta(s.Path("snapshots", string(id)))
	if errors.Is(err, failure.NotFound) {
		return nil
	}
	if err != nil || !m.forSleep() {
		return err
	}
	err = s.Remove(ctx, id, RemoveOptions{})
	if errors.Is(err, failure.NotFound) {
		return nil
	}
	return err
}
