package chsnap

import (
	"encoding/binary"
	"encoding/json"

	"github.com/cocoonv2/cocoon/internal/base/failure"
)

// kvmClock is the layout of struct kvm_clock_data (linux/kvm.h), which the VMM
// writes as an array of its bytes: clock and realtime in ns, little-endian.
const (
	kvmClockBytes = 48
	kvmClockFlags = 8 // u32
	// kvmClockRealtime says that the moment of the capture is known: the kernel then
	// adds what has passed since.
	kvmClockRealtime = 1 << 2
)

// HoldClock lets the guest's clock continue from where it was at the capture. By
// default the VMM lets it catch up: the guest's time of day is right at once, and
// its monotonic clock jumps by the age of the snapshot.
func (s *State) HoldClock() error {
	raw, err := editPath(s.raw, []string{"snapshot_data", "state"}, func(b []byte) ([]byte, error) {
		var text string
		if err := json.Unmarshal(b, &text); err != nil {
			return nil, failure.New(failure.Damaged, "state: clock: %w", err)
		}
		inner, err := editPath([]byte(text), []string{"clock", "Kvm"}, holdKVMClock)
		if err != nil {
			return nil, err
		}
		return encode(string(inner))
	})
	if err != nil {
		return err
	}
	s.raw = raw
	return s.read()
}

// ClockHolds refuses a state whose clock HoldClock cannot hold.
func (s *State) ClockHolds() error {
	trial := *s // its bytes are replaced, never changed
	return trial.HoldClock()
}

func holdKVMClock(b []byte) ([]byte, error) {
	var bytes []uint16 // a []byte would be base64
	if err := json.Unmarshal(b, &bytes); err != nil || len(bytes) != kvmClockBytes {
		return nil, failure.New(failure.Incompatible, "state: the guest's clock is in an unknown encoding (%d bytes): it can only catch up", len(bytes))
	}
	raw := make([]byte, kvmClockBytes)
	for i, v := range bytes {
		if v > 0xff {
			return nil, failure.New(failure.Damaged, "state: clock: byte %d is %d", i, v)
		}
		raw[i] = byte(v)
	}
	flags := binary.LittleEndian.Uint32(raw[kvmClockFlags:])
	binary.LittleEndian.PutUint32(raw[kvmClockFlags:], flags&^kvmClockRealtime)
	for i, v := range raw {
		bytes[i] = uint16(v)
	}
	return encode(bytes)
}
