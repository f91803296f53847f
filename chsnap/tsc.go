package chsnap

import (
	"bytes"
	"encoding/json"
	"strconv"

	"github.com/cocoonv2/cocoon/internal/base/failure"
)

// tscKey is the frequency of a virtual CPU's time stamp counter, in the state of
// that CPU. The VMM sets it before the guest runs; without it the counter runs at
// the host's rate.
const tscKey = "tsc_khz"

// TSCKHz is the frequency of the guest's time stamp counter; 0 if the state has
// none.
func (s *State) TSCKHz() (uint64, error) {
	cpus, err := s.cpus()
	if err != nil || cpus == nil {
		return 0, err
	}
	all, err := members(cpus)
	if err != nil || len(all) == 0 {
		return 0, err
	}
	// All of them have the same.
	var cpu struct {
		Data *struct {
			State string `json:"state"`
		} `json:"snapshot_data"`
	}
	if err := json.Unmarshal(cpus[all[0].start:all[0].end], &cpu); err != nil || cpu.Data == nil {
		return 0, failure.Wrap(failure.Damaged, err)
	}
	kvm, err := get([]byte(cpu.Data.State), "Kvm")
	if err != nil || kvm == nil {
		return 0, err
	}
	khz, err := get(kvm, tscKey)
	if err != nil || khz == nil || bytes.Equal(khz, []byte("null")) {
		return 0, err
	}
	n, err := strconv.ParseUint(string(khz), 10, 32)
	if err != nil {
		return 0, failure.New(failure.Damaged, "state: %s: %w", tscKey, err)
	}
	return n, nil
}

// DropTSC removes the frequency from every CPU's state: the guest's counter then
// runs at the rate of its host.
func (s *State) DropTSC() error {
	raw, err := editPath(s.raw, []string{"snapshots", "cpu-manager", "snapshots"}, func(cpus []byte) ([]byte, error) {
		all, err := members(cpus)
		if err != nil {
			return nil, err
		}
		for _, m := range all {
			if cpus, err = editPath(cpus, []string{m.key, "snapshot_data", "state"}, dropTSC); err != nil {
				return nil, err
			}
		}
		return cpus, nil
	})
	if err != nil {
		return err
	}
	s.raw = raw
	return s.read()
}

// dropTSC edits a CPU's state, which is a document in a string.
func dropTSC(b []byte) ([]byte, error) {
	var text string
	if err := json.Unmarshal(b, &text); err != nil {
		return nil, failure.New(failure.Damaged, "state: CPU: %w", err)
	}
	inner, err := edit([]byte(text), "Kvm", func(kvm []byte) ([]byte, error) {
		return edit(kvm, tscKey, func([]byte) ([]byte, error) { return []byte("null"), nil })
	})
	if err != nil {
		return nil, err
	}
	return encode(string(inner))
}

// cpus is the object of all CPUs' states, nil when there is none.
func (s *State) cpus() ([]byte, error) {
	b := s.raw
	for _, key := range []string{"snapshots", "cpu-manager", "snapshots"} {
		var err error
		if b, err = get(b, key); err != nil || b == nil || bytes.Equal(b, []byte("null")) {
			return nil, err
		}
	}
	return b, nil
}
