// Package migration speaks Cloud Hypervisor's live-migration protocol, from
// both ends, to save and to load a VM without RAM-sized files.
//
// [Recorder] is the receiving end of vm.send-migration: RAM arrives while the
// guest runs, then the pages it dirtied, then (the guest is paused from here on)
// the device state. Answering Error to the last message makes the migration
// "fail", and the VMM resumes the guest itself.
//
// [Pusher] is the sending end of vm.receive-migration: it gives a fresh VMM
// its configuration, the non-zero pages over several connections, the device
// state, and lets it run.
//
// The wire (Cloud Hypervisor v53.0 and later, vm-migration/src/protocol.rs):
// little-endian, a 16-byte request {command u16, headers [6]byte, length u64}
// with length bytes of payload, each answered by one 16-byte response {status
// u16, padding, length u64 = 0}. A Memory payload is a table of {gpa u64,
// length u64}; the bytes of its ranges follow and are not counted.
//
// Invariants: no length is used before it is checked; every read and write has a
// time-out, since the peer has none; a failure before Complete is answered leaves
// the guest running.
package migration

import (
	"encoding/binary"
	"fmt"
	"io"

	"github.com/cocoonv2/cocoon/internal/base/failure"
)

// Command is the kind of a request.
type Command uint16

// The commands of protocol version 0.
const (
	Start          Command = 1
	Config         Command = 2
	State          Command = 3
	Memory         Command = 4
	Complete       Command = 5
	Abandon        Command = 6
	MemoryFd       Command = 7
	CompletePaused Command = 8
)

func (c Command) String() string {
	names := map[Command]string{Start: "Start", Config: "Config", State: "State", Memory: "Memory", Complete: "Complete", Abandon: "Abandon", MemoryFd: "MemoryFd", CompletePaused: "CompletePaused"}
	if n, ok := names[c]; ok {
		return n
	}
	return fmt.Sprintf("command %d", uint16(c))
}

// Statuses of a response.
const (
	statusOK    = 1
	statusError = 2
)

const (
	headerBytes = 16
	// maxTableBytes limits one Memory table: a million ranges.
	maxTableBytes = 16 << 20
	// maxJSONBytes limits Config and State; seen: 7 KiB and 64 KiB.
	maxJSONBytes = 64 << 20
	// roleMemory begins an extra connection that carries Memory commands only.
	roleMemory = 1
)

// Range is a stretch of guest-physical memory, bytes.
type Range struct{ GPA, Length uint64 }

// header is a request without its payload.
type header struct {
	command Command
	version uint16
	length  uint64
}

func readHeader(r io.Reader) (header, error) {
	var b [headerBytes]byte
	if _, err := io.ReadFull(r, b[:]); err != nil {
		return header{}, err
	}
	le := binary.LittleEndian
	h := header{Command(le.Uint16(b[:])), le.Uint16(b[2:]), le.Uint64(b[8:])}
	limit := uint64(0)
	switch h.command {
	case Config, State:
		limit = maxJSONBytes
	case Memory:
		limit = maxTableBytes
	case MemoryFd:
		limit = 4
	case Start, Complete, CompletePaused, Abandon:
	default:
		return header{}, failure.New(failure.Incompatible, "migration: unknown %s", h.command)
	}
	if h.length > limit {
		return header{}, failure.New(failure.Damaged, "migration: %s with %d bytes, at most %d are expected", h.command, h.length, limit)
	}
	return h, nil
}

func writeRequest(w io.Writer, c Command, payload []byte) error {
	var b [headerBytes]byte
	binary.LittleEndian.PutUint16(b[:], uint16(c))
	binary.LittleEndian.PutUint64(b[8:], uint64(len(payload)))
	if _, err := w.Write(b[:]); err != nil {
		return fmt.Errorf("migration: send %s: %w", c, err)
	}
	if len(payload) == 0 { // the peer may have answered and gone: even an empty write would fail
		return nil
	}
	if _, err := w.Write(payload); err != nil {
		return fmt.Errorf("migration: send payload of %s: %w", c, err)
	}
	return nil
}

func writeResponse(w io.Writer, status uint16) error {
	var b [headerBytes]byte
	binary.LittleEndian.PutUint16(b[:], status)
	_, err := w.Write(b[:])
	return err
}

func readResponse(r io.Reader, to Command) error {
	var b [headerBytes]byte
	if _, err := io.ReadFull(r, b[:]); err != nil {
		return fmt.Errorf("migration: answer to %s: %w", to, err)
	}
	if s := binary.LittleEndian.Uint16(b[:]); s != statusOK {
		return failure.New(failure.Incompatible, "migration: the VMM refused %s (status %d)", to, s)
	}
	return nil
}

// encodeTable is the payload of a Memory command.
func encodeTable(ranges []Range) []byte {
	b := make([]byte, 0, 16*len(ranges))
	for _, r := range ranges {
		b = binary.LittleEndian.AppendUint64(b, r.GPA)
		b = binary.LittleEndian.AppendUint64(b, r.Length)
	}
	return b
}

// decodeTable reads a Memory table and checks every range against the RAM that
// Config announced.
func decodeTable(b []byte, ram []Range) ([]Range, error) {
	if len(b)%16 != 0 {
		return nil, failure.New(failure.Damaged, "migration: memory table of %d bytes", len(b))
	}
	out := make([]Range, 0, len(b)/16)
	for ; len(b) > 0; b = b[16:] {
		r := Range{binary.LittleEndian.Uint64(b), binary.LittleEndian.Uint64(b[8:])}
		if (r.GPA|r.Length)%4096 != 0 || !inside(r, ram) {
			return nil, failure.New(failure.Damaged, "migration: memory %#x+%#x is unaligned or lies outside guest RAM", r.GPA, r.Length)
		}
		out = append(out, r)
	}
	return out, nil
}

func inside(r Range, ram []Range) bool {
	for _, m := range ram {
		if r.GPA >= m.GPA && r.GPA-m.GPA <= m.Length && r.Length <= m.Length-(r.GPA-m.GPA) {
			return true
		}
	}
	return false
}
