package chsnaptest

import (
	"encoding/binary"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"time"
)

// Commands of the migration stream, by their number on the wire.
var commandNames = map[uint16]string{1: "Start", 2: "Config", 3: "State", 4: "Memory", 5: "Complete", 8: "CompletePaused"}

const maxTable = 16 << 20

// stream receives what a VMM sends by vm.send-migration, the smallest way that
// can work: it must not trust the recorder that other packages test with it.
type stream struct {
	listener *net.UnixListener
	dieAt    string // "Memory2": close the connection there, unanswered

	commands []string
	dense    bool // the first Memory command brought every byte of RAM
	config   struct {
		VM     json.RawMessage `json:"vm_config"`
		Memory struct {
			Mappings []struct {
				GPA  uint64 `json:"gpa"`
				Size uint64 `json:"size"`
			} `json:"guest_ram_mappings"`
		} `json:"memory_manager_data"`
	}
	state []byte
	ram   []byte // of a VM with one range from 0
	// quiet is called between State and the answer to the last command.
	quiet func()
}

func listenStream(path string) (*stream, error) {
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
	if err != nil {
		return nil, err
	}
	return &stream{listener: l}, nil
}

// receive takes one migration and refuses its last command.
func (s *stream) receive() error {
	defer s.listener.Close()
	if err := s.listener.SetDeadline(time.Now().Add(caseTimeout)); err != nil {
		return err
	}
	c, err := s.listener.AcceptUnix()
	if err != nil {
		return err
	}
	defer c.Close()
	if err := c.SetDeadline(time.Now().Add(caseTimeout)); err != nil {
		return err
	}
	memories := 0
	for {
		var head [16]byte
		if _, err := io.ReadFull(c, head[:]); err == io.EOF {
			return nil
		} else if err != nil {
			return err
		}
		name := commandNames[binary.LittleEndian.Uint16(head[:])]
		s.commands = append(s.commands, name)
		if name == "Memory" {
			memories++
		}
		if s.dieAt == name || s.dieAt == fmt.Sprint(name, memories) {
			return nil
		}
		answer, err := s.take(c, name, binary.LittleEndian.Uint64(head[8:]))
		if err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
		var b [16]byte
		binary.LittleEndian.PutUint16(b[:], answer)
		if _, err := c.Write(b[:]); err != nil {
			return fmt.Errorf("answer %s: %w", name, err)
		}
	}
}

// take reads one command's payload and says what to answer.
func (s *stream) take(c io.Reader, name string, length uint64) (answer uint16, err error) {
	if length > maxTable {
		return 0, fmt.Errorf("a payload of %d bytes", length)
	}
	payload := make([]byte, length)
	if _, err := io.ReadFull(c, payload); err != nil {
		return 0, err
	}
	switch name {
	case "Config":
		if err := json.Unmarshal(payload, &s.config); err != nil {
			return 0, err
		}
		if n := len(s.config.Memory.Mappings); n != 1 {
			return 0, fmt.Errorf("%d ranges of RAM, one is expected", n)
		}
		s.ram = make([]byte, s.config.Memory.Mappings[0].Size)
	case "Memory":
		return 1, s.memory(c, payload)
	case "State":
		s.state = payload
	case "Complete", "CompletePaused":
		if s.quiet != nil {
			s.quiet()
		}
		return 2, nil
	}
	return 1, nil
}

func (s *stream) memory(c io.Reader, table []byte) error {
	first, total := s.state == nil && !s.dense, uint64(0)
	for ; len(table) >= 16; table = table[16:] {
		gpa, n := binary.LittleEndian.Uint64(table), binary.LittleEndian.Uint64(table[8:])
		if gpa+n > uint64(len(s.ram)) || gpa%4096 != 0 || n%4096 != 0 {
			return fmt.Errorf("memory %#x+%#x", gpa, n)
		}
		if _, err := io.ReadFull(c, s.ram[gpa:gpa+n]); err != nil {
			return err
		}
		total += n
	}
	if first {
		s.dense = total == uint64(len(s.ram))
	}
	return nil
}

// write makes a snapshot folder of what was received.
func (s *stream) write(dir string) error {
	for name, b := range map[string][]byte{"config.json": s.config.VM, "state.json": s.state, "memory-ranges": s.ram} {
		if err := os.WriteFile(filepath.Join(dir, name), b, 0o600); err != nil {
			return err
		}
	}
	return nil
}
