package sim

import (
	"encoding/json"
	"fmt"
	"hash/maphash"
	"net"
	"strings"
	"time"
)

// sender is a migration under way: a worker beside the control loop that owns
// the VM until it is done. Meanwhile every call that needs the VM is refused,
// and vm.info shows what it was at the beginning.
type sender struct {
	m       *machine
	vm      *vm
	before  vmInfo // vm.info at the start
	running bool   // the guest ran at the start
	conn    *net.UnixConn
	seed    maphash.Seed
	sent    map[uint64]uint64 // hash of each page as it was sent, by address
}

// sendMigration begins a migration; it is under way when the answer comes. Where
// it goes is looked at only then: nobody listening is a migration that fails.
func (m *machine) sendMigration(url string) error {
	path, unix := strings.CutPrefix(url, "unix:")
	switch {
	case m.sending != nil:
		return faultf("Failed to send migratable component snapshot", "There is already an ongoing migration")
	case m.vm == nil:
		return faultf("Failed to send migratable component snapshot", "VM is not running")
	case !unix && !strings.HasPrefix(url, "tcp:"):
		return faultf("Failed to send migratable component snapshot", "Invalid send migration configuration",
			"Error validating send migration parameters: destination_url must use tcp:<host>:<port> or unix:<path>.")
	}
	now, err := m.info()
	if err != nil {
		return err
	}
	s := &sender{m: m, vm: m.vm, before: *now, running: m.vm.state == stateRunning, seed: maphash.MakeSeed(), sent: map[uint64]uint64{}}
	m.sending = s
	go s.run(path)
	return nil
}

// errMigrating is the answer to every call that needs the VM.
func errMigrating() *fault { return faultf("VM is currently migrating and can't be modified") }

// run sends the VM. When the peer takes it, this process is over; when it does
// not, the guest goes on as before, but without its disk locks if the stream
// had come to the state.
func (s *sender) run(path string) {
	err := s.send(path)
	if s.conn != nil {
		s.conn.Close()
	}
	s.m.control.Lock()
	defer s.m.control.Unlock()
	s.m.sending = nil
	if err == nil {
		_ = s.m.delete()
		s.m.exit(0)
	}
	if s.running && s.vm.state == statePaused {
		s.vm.state = stateRunning
		s.vm.guest.resume()
	}
}

func (s *sender) send(path string) error {
	if s.vm.ram.isShared() {
		dieOfFilter() // it asks for the size of the memfd, by newfstatat
	}
	var err error
	if s.conn, err = net.DialUnix("unix", nil, &net.UnixAddr{Name: path, Net: "unix"}); err != nil {
		return err
	}
	config, err := s.config()
	if err != nil {
		return err
	}
	if err := s.request(wireStart, nil, nil); err != nil {
		return err
	}
	if err := s.request(wireConfig, config, nil); err != nil {
		return err
	}
	if err := s.rounds(); err != nil {
		return err
	}
	unlockDisks(s.vm.disks)
	state, err := buildState(s.m.config, s.vm.ram, s.vm.deviceCount)
	if err != nil {
		return err
	}
	if err := s.request(wireState, state, nil); err != nil {
		return err
	}
	if s.running {
		return s.request(wireComplete, nil, nil)
	}
	return s.request(wireCompletePaused, nil, nil)
}

// rounds sends all of RAM, zero pages included, then what the guest dirtied,
// then pauses it and sends what it dirtied since.
func (s *sender) rounds() error {
	var all []memoryRange
	for _, p := range s.vm.ram.spans {
		all = append(all, memoryRange{p.gpa, p.size})
		s.changed(p) // remembers the pages before they are sent: what changes meanwhile comes again
	}
	if err := s.memory(all); err != nil {
		return err
	}
	if !s.running {
		return nil
	}
	if err := s.memory(s.dirty()); err != nil {
		return err
	}
	s.vm.guest.pause()
	s.vm.state = statePaused
	return s.memory(s.dirty())
}

func (s *sender) dirty() []memoryRange {
	var out []memoryRange
	for _, p := range s.vm.ram.spans {
		out = append(out, s.changed(p)...)
	}
	return out
}

// changed lists the stretches of pages that are not as they were when it was
// called last, and remembers them as they are.
func (s *sender) changed(p *span) []memoryRange {
	var out []memoryRange
	for off := uint64(0); off < p.size; off += pageSize {
		if off%chunk == 0 {
			s.vm.guest.mu.Lock()
		}
		gpa, h := p.gpa+off, maphash.Bytes(s.seed, p.mem[off:off+pageSize])
		if off%chunk == chunk-pageSize || off+pageSize == p.size {
			s.vm.guest.mu.Unlock()
		}
		if was, ok := s.sent[gpa]; ok && was == h {
			continue
		}
		s.sent[gpa] = h
		if n := len(out); n > 0 && out[n-1].GPA+out[n-1].Length == gpa {
			out[n-1].Length += pageSize
		} else {
			out = append(out, memoryRange{gpa, pageSize})
		}
	}
	return out
}

// memory sends one Memory command; without ranges none is sent.
func (s *sender) memory(ranges []memoryRange) error {
	if len(ranges) == 0 {
		return nil
	}
	return s.request(wireMemory, encodeRanges(ranges), func() error {
		total, sent := uint64(0), uint64(0)
		for _, r := range ranges {
			total += r.Length
		}
		for _, r := range ranges {
			for off := uint64(0); off < r.Length; off += chunk {
				n := min(chunk, r.Length-off)
				if sent <= total/2 && sent+n > total/2 {
					if err := s.fail(wireMemory); err != nil {
						return err
					}
				}
				if err := s.copyOut(r.GPA+off, int(n)); err != nil {
					return err
				}
				sent += n
			}
		}
		return nil
	})
}

// copyOut sends guest memory as it is between two ticks.
func (s *sender) copyOut(gpa uint64, n int) error {
	s.vm.guest.mu.Lock()
	b := append([]byte(nil), s.vm.ram.at(gpa, n)...)
	s.vm.guest.mu.Unlock()
	_, err := s.conn.Write(b)
	return err
}

// request sends one command and what belongs to it, and waits for the answer.
func (s *sender) request(c wireCommand, payload []byte, data func() error) error {
	if data == nil { // Memory fails half-way through its pages
		if err := s.fail(c); err != nil {
			return err
		}
	}
	if err := writeCommand(s.conn, c, payload); err != nil {
		return err
	}
	if data != nil {
		if err := data(); err != nil {
			return err
		}
	}
	return readAnswer(s.conn)
}

// fail applies the failpoint of a phase. A stall ends when the peer gives up.
func (s *sender) fail(c wireCommand) error {
	rule := s.m.settings.fail.next(phasePrefix + c.String())
	switch rule.action {
	case actFail:
		return fmt.Errorf("injected failure")
	case actDie:
		die()
	case actHang:
		hang()
	case actSlow:
		time.Sleep(rule.delay)
	case actStall:
		_, err := s.conn.Read(make([]byte, 1))
		return fmt.Errorf("stalled until the peer gave up: %w", err)
	}
	return nil
}

// config is the payload of Config: the configuration, CPUID and RAM layout.
func (s *sender) config() ([]byte, error) {
	b, err := buildState(s.m.config, s.vm.ram, s.vm.deviceCount)
	if err != nil {
		return nil, err
	}
	root := &snapshotNode{}
	if err := json.Unmarshal(b, root); err != nil {
		return nil, err
	}
	var cpuid struct {
		Common json.RawMessage `json:"common_cpuid"`
	}
	if err := json.Unmarshal([]byte(root.Data.State), &cpuid); err != nil {
		return nil, err
	}
	memory := &memoryState{}
	if err := json.Unmarshal([]byte(root.Snapshots["memory-manager"].Data.State), memory); err != nil {
		return nil, err
	}
	memory.Ranges.Data = []memoryRange{}
	return json.Marshal(struct {
		Config *vmConfig       `json:"vm_config"`
		CPUID  json.RawMessage `json:"common_cpuid"`
		Memory *memoryState    `json:"memory_manager_data"`
	}{s.m.config, cpuid.Common, memory})
}
