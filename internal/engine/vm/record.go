// Package vm manages virtual machines: their records, their disks, and the VMM
// process that runs each.
//
// A VM is a folder vms/<id> with record.json and its writable disks. It exists
// from the moment record.json does; a folder without one is a creation in
// progress (a living lease names it) or a leftover (gc removes it). Sockets, logs
// and the process's identity are in runDir/<id> and may vanish with a reboot.
//
// Invariants: every verb that changes a VM holds vms/<id>/lock; a process is the
// one we started only if its start time agrees, and is signalled by pidfd; the
// record always has everything a cold boot needs; a suspended VM (sleep.go) never
// boots from its disks unless its RAM is explicitly discarded.
package vm

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/cocoonv2/cocoon/internal/base/durable"
	"github.com/cocoonv2/cocoon/internal/base/failure"
	"github.com/cocoonv2/cocoon/network"
	"github.com/cocoonv2/cocoon/store"
	"github.com/cocoonv2/cocoon/store/sleep"
)

// Record is everything known about a VM; record.json.
type Record struct {
	Version      int               `json:"version"`
	ID           string            `json:"id"`
	Name         string            `json:"name"`
	Created      time.Time         `json:"created"`
	Labels       map[string]string `json:"labels,omitempty"`
	CPUs         int               `json:"cpus"`
	MemoryBytes  int64             `json:"memoryBytes"`
	HotplugBytes int64             `json:"hotplugBytes,omitempty"` // of RAM that may be plugged in
	Kernel       *store.ImageRef   `json:"kernel,omitempty"`
	Firmware     *store.ImageRef   `json:"firmware,omitempty"`
	Initramfs    *store.ImageRef   `json:"initramfs,omitempty"`
	Cmdline      string            `json:"cmdline,omitempty"`
	Disks        []Disk            `json:"disks"`
	Networks     []Network         `json:"networks"`
	ExtraArgs    []string          `json:"extraArgs,omitempty"`
	Image        string            `json:"image,omitempty"`    // name that it was made from
	Images       []digest.Digest   `json:"images"`             // every image blob that it uses
	Hardware     *Hardware         `json:"hardware,omitempty"` // of one made from files
	Machine      json.RawMessage   `json:"machine,omitempty"`  // of a rebuilt VM; machine.go
	Snapshot     string            `json:"snapshot,omitempty"`
	Restore      *RestoreInfo      `json:"restore,omitempty"`
	State        State             `json:"state"`
	Process      *Process          `json:"process,omitempty"`
	LastError    string            `json:"lastError,omitempty"`
	Exit         *Exit             `json:"exit,omitempty"`  // of the run before, while there is no process
	Woken        int               `json:"woken,omitempty"` // how often it was woken, or had its RAM discarded
	Sleep        *Sleep            `json:"-"`               // of a suspended VM; sleep.go
	Trouble      string            `json:"-"`               // with its VMM, as Look found it
	Unseated     bool              `json:"-"`               // this verb ended a VMM that was not in the record
}

// Disk of a VM: File (in the VM's folder) is writable, Image is a shared blob.
type Disk struct {
	Index    int           `json:"index"`
	DeviceID string        `json:"deviceId"`
	Serial   string        `json:"serial"`
	File     string        `json:"file,omitempty"`
	Image    digest.Digest `json:"image,omitempty"`
	Readonly bool          `json:"readonly"`
	Bytes    int64         `json:"bytes"`
}

// Network is one interface: the request until it is attached, then the result, so
// that it can be attached again unchanged.
type Network struct {
	ID string `json:"id"` // the VMM's, e.g. _net0
	network.Attachment
}

// RestoreInfo says how a VM was rebuilt.
type RestoreInfo struct {
	Mode string  `json:"mode"`
	Ms   float64 `json:"ms"` // from the first step until the guest ran
}

// Process is the VMM of a VM.
type Process struct {
	PID       int    `json:"pid"`
	BootID    string `json:"bootId"`    // run of the kernel that it belongs to
	StartTime uint64 `json:"startTime"` // clock ticks since boot, /proc/PID/stat field 22
	APISocket string `json:"apiSocket"`
	Version   string `json:"version"`
}

const recordVersion = 1

var recordFile = durable.Document{Name: "VM record", Limit: sleep.RecordLimit}

// nameLength bounds the name of a VM, characters.
const nameLength = 64

func (m *Manager) recordPath(id string) string { return filepath.Join(m.Dir(id), recordName) }

// read loads one record, for a suspended VM the one in suspend.json;
// failure.NotFound if there is none.
func (m *Manager) read(id string) (*Record, error) {
	rec, err := m.readRecord(id)
	if err != nil {
		return nil, err
	}
	sleep, err := m.readSleep(id)
	if err != nil {
		return nil, err
	}
	if sleep != nil {
		rec = sleep.Record
		rec.Sleep = sleep
	}
	m.measure(rec)
	return rec, nil
}

// measure: a writable disk is as large as its file, which may have been grown
// unnoticed, by the VMM or with the VM stopped.
func (m *Manager) measure(rec *Record) {
	for i, d := range rec.Disks {
		if d.File == "" {
			continue
		}
		if fi, err := os.Stat(filepath.Join(m.Dir(rec.ID), d.File)); err == nil {
			rec.Disks[i].Bytes = fi.Size()
		}
	}
}

func (m *Manager) readRecord(id string) (*Record, error) {
	b, err := recordFile.Read(m.recordPath(id))
	if errors.Is(err, os.ErrNotExist) {
		return nil, failure.New(failure.NotFound, "no VM %s", id)
	}
	if err != nil {
		return nil, fmt.Errorf("record of VM %s: %w", id, err)
	}
	return decodeRecord(b, id)
}

// decodeRecord reads the record of the VM with this id.
func decodeRecord(b []byte, id string) (*Record, error) {
	var rec Record
	if err := json.Unmarshal(b, &rec); err != nil {
		return nil, failure.New(failure.Damaged, "record of VM %s: %w", id, err)
	}
	if rec.Version != recordVersion {
		return nil, failure.New(failure.Damaged, "record of VM %s has version %d, this program knows %d", id, rec.Version, recordVersion)
	}
	if rec.ID != id {
		return nil, failure.New(failure.Damaged, "record of VM %s says id %.40q", id, rec.ID)
	}
	for _, d := range rec.blobs() {
		if d.Validate() != nil || d.Algorithm() != digest.SHA256 {
			return nil, failure.New(failure.Damaged, "record of VM %s: digest %.80q", id, string(d))
		}
	}
	return &rec, nil
}

// save writes a record atomically.
func (m *Manager) save(rec *Record) error {
	b, err := json.MarshalIndent(rec, "", "  ")
	if err != nil {
		return err
	}
	if err := recordFile.Write(m.recordPath(rec.ID), b, 0o600); err != nil {
		return fmt.Errorf("save record of VM %s: %w", rec.Name, err)
	}
	return nil
}

// stage is save for a record that gets its name later.
func (m *Manager) stage(rec *Record) (*durable.Staged, error) {
	b, err := json.MarshalIndent(rec, "", "  ")
	if err != nil {
		return nil, err
	}
	f, err := recordFile.Stage(m.recordPath(rec.ID), b, 0o600)
	if err != nil {
		return nil, fmt.Errorf("save record of VM %s: %w", rec.Name, err)
	}
	return f, nil
}
