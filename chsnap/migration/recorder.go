package migration

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"slices"
	"time"

	"github.com/cocoonv2/cocoon/internal/base/durable"
	"github.com/cocoonv2/cocoon/internal/base/failure"
)

// Handler receives what a Recorder gets, in the order of the stream.
type Handler interface {
	// RAM announces the guest's memory, by address, before any of it comes.
	RAM(ctx context.Context, ram []Range) error
	// Page takes whole pages of RAM at gpa. Round 1 is the full pass; the pages
	// of later rounds override earlier ones. p is reused after the call.
	Page(round int, gpa uint64, p []byte) error
	// Passed is called once, after the full pass and before it is answered: the
	// guest has run so far.
	Passed(ctx context.Context) error
	// Quiet is called once while the guest is paused and its RAM and state have
	// arrived: the moment to clone its disks.
	Quiet(ctx context.Context) error
}

// Recording is what came beside the RAM.
type Recording struct {
	Config []byte // VmMigrationConfig as JSON: vm_config, common_cpuid, memory_manager_data
	State  []byte // the document that vm.snapshot writes as state.json
	RAM    []Range
	Rounds int   // Memory commands: the full pass and the dirty passes
	Bytes  int64 // of RAM received, all rounds
	Paused bool  // the VM was paused before (CompletePaused)
	// LastRan is when the guest was last known to run: our answer to the round
	// before the last, or to the full pass if nothing followed it. The VMM pauses
	// the guest some time after it and before State.
	LastRan time.Time
}

// Recorder listens on a unix socket for one VM.
type Recorder struct {
	// Timeout limits every wait for the peer: the first connection, the next
	// header, the next chunk.
	Timeout  time.Duration
	listener *net.UnixListener
}

// chunkBytes is how much RAM one Page call takes at most.
const chunkBytes = 1 << 20

// Listen opens the socket, 0600. The path must not exist.
func Listen(path string, timeout time.Duration) (*Recorder, error) {
	if path == "" || timeout <= 0 { // "" would bind an abstract name that others could connect to
		return nil, failure.New(failure.Usage, "a migration stream is received on a socket, within a time: %q, %s", path, timeout)
	}
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
	if err != nil {
		return nil, fmt.Errorf("listen for the migration stream: %w", err)
	}
	if err := os.Chmod(path, 0o600); err != nil {
		return nil, errors.Join(err, l.Close())
	}
	return &Recorder{Timeout: timeout, listener: l}, nil
}

// Close stops listening and removes the socket.
func (r *Recorder) Close() error { return r.listener.Close() }

// Record receives one VM. On success the final answer was Error on purpose and
// the peer has closed the connection. On any failure the connection is closed,
// which makes the VMM resume the guest as well.
func (r *Recorder) Record(ctx context.Context, h Handler) (*Recording, error) {
	if err := r.listener.SetDeadline(time.Now().Add(r.Timeout)); err != nil {
		return nil, err
	}
	conn, err := r.accept(ctx)
	if err != nil {
		return nil, fmt.Errorf("wait for the migration stream: %w", err)
	}
	defer conn.Close()
	stop := context.AfterFunc(ctx, func() { conn.Close() })
	defer stop()
	durable.Step("migration.connected")
	if err := os.Remove(r.listener.Addr().String()); err != nil { // one peer: no second one finds it
		return nil, fmt.Errorf("unname the migration socket: %w", err)
	}
	s := &session{Recorder: r, conn: conn, handler: h, rec: &Recording{}, buf: make([]byte, chunkBytes)}
	if err := s.run(ctx); err != nil {
		if ctx.Err() != nil {
			err = ctx.Err()
		}
		return nil, err
	}
	return s.rec, nil
}

func (r *Recorder) accept(ctx context.Context) (*net.UnixConn, error) {
	stop := context.AfterFunc(ctx, func() { r.listener.SetDeadline(time.Unix(1, 0)) })
	defer stop()
	conn, err := r.listener.AcceptUnix()
	if ctx.Err() != nil {
		return nil, errors.Join(ctx.Err(), err)
	}
	return conn, err
}

// session is one connection being received.
type session struct {
	*Recorder
	conn    *net.UnixConn
	handler Handler
	rec     *Recording
	buf     []byte
	// answered is when the last command was, and before when the one before the
	// last Memory was.
	answered, before time.Time
}

func (s *session) run(ctx context.Context) error {
	for {
		if err := s.extend(); err != nil {
			return err
		}
		h, err := readHeader(s.conn)
		if err != nil {
			return s.lost(err)
		}
		done, err := s.handle(ctx, h)
		if err != nil {
			return err
		}
		if done {
			return s.drain()
		}
		if err := s.extend(); err != nil { // what the command needed is not the peer's time
			return err
		}
		if err := writeResponse(s.conn, statusOK); err != nil {
			return s.lost(err)
		}
		s.answered = time.Now()
	}
}

// lost explains a stream that ended or stalled; damage keeps its class.
func (s *session) lost(err error) error {
	var timeout net.Error
	switch {
	case errors.Is(err, failure.Damaged), errors.Is(err, failure.Incompatible):
		return err
	case errors.As(err, &timeout) && timeout.Timeout():
		return failure.New(failure.Conflict, "migration stream: the VMM stood still for %s: %w", s.Timeout, err)
	}
	return failure.New(failure.Conflict, "migration stream: the VMM ended it: %w", err)
}

func (s *session) extend() error { return s.conn.SetDeadline(time.Now().Add(s.Timeout)) }

// handle takes one command; done is true after the final one was answered.
func (s *session) handle(ctx context.Context, h header) (done bool, err error) {
	switch h.command {
	case Start:
		if h.version > 0 {
			return false, failure.New(failure.Incompatible, "migration protocol version %d is unknown", h.version)
		}
		durable.Step("migration.start")
		return false, nil
	case Config:
		return false, s.config(ctx, h.length)
	case Memory:
		return false, s.memory(ctx, h.length)
	case State:
		return false, s.state(h.length)
	case Complete, CompletePaused:
		return true, s.complete(ctx, h.command)
	default:
		return false, failure.New(failure.Incompatible, "migration: unexpected %s", h.command)
	}
}

func (s *session) document(n uint64) ([]byte, error) {
	b := make([]byte, n)
	if _, err := io.ReadFull(s.conn, b); err != nil {
		return nil, s.lost(err)
	}
	if !json.Valid(b) {
		return nil, failure.New(failure.Damaged, "migration: a document of %d bytes is not JSON", n)
	}
	return b, nil
}

// config learns where RAM is.
func (s *session) config(ctx context.Context, n uint64) error {
	if s.rec.Config != nil {
		return failure.New(failure.Damaged, "migration: a second Config")
	}
	b, err := s.document(n)
	if err != nil {
		return err
	}
	var c struct {
		Memory struct {
			Mappings []struct {
				GPA  uint64 `json:"gpa"`
				Size uint64 `json:"size"`
			} `json:"guest_ram_mappings"`
		} `json:"memory_manager_data"`
	}
	if err := json.Unmarshal(b, &c); err != nil {
		return failure.New(failure.Damaged, "migration: Config: %w", err)
	}
	for _, m := range c.Memory.Mappings {
		s.rec.RAM = append(s.rec.RAM, Range{m.GPA, m.Size})
	}
	slices.SortFunc(s.rec.RAM, func(a, b Range) int {
		if a.GPA < b.GPA {
			return -1
		}
		return 1
	})
	if err := checkRAM(s.rec.RAM); err != nil {
		return err
	}
	s.rec.Config = b
	durable.Step("migration.config")
	return s.handler.RAM(ctx, s.rec.RAM)
}

func (s *session) state(n uint64) error {
	if s.rec.Rounds == 0 || s.rec.State != nil {
		return failure.New(failure.Damaged, "migration: State out of turn")
	}
	s.rec.LastRan = s.answered
	if s.rec.Rounds > 1 {
		s.rec.LastRan = s.before
	}
	b, err := s.document(n)
	s.rec.State = b
	durable.Step("migration.state")
	return err
}

func checkRAM(ram []Range) error {
	var end uint64
	for _, r := range ram {
		if r.GPA < end || r.Length == 0 || r.GPA+r.Length < r.GPA || (r.GPA|r.Length)%4096 != 0 {
			return failure.New(failure.Damaged, "migration: RAM %#x+%#x is out of order or unaligned", r.GPA, r.Length)
		}
		end = r.GPA + r.Length
	}
	if len(ram) == 0 {
		return failure.New(failure.Damaged, "migration: the VM has no RAM")
	}
	return nil
}

func (s *session) memory(ctx context.Context, n uint64) error {
	if s.rec.Config == nil || s.rec.State != nil {
		return failure.New(failure.Damaged, "migration: Memory out of turn")
	}
	s.before = s.answered
	table := make([]byte, n)
	if _, err := io.ReadFull(s.conn, table); err != nil {
		return s.lost(err)
	}
	ranges, err := decodeTable(table, s.rec.RAM)
	if err != nil {
		return err
	}
	for _, r := range ranges {
		if err := s.receive(r); err != nil {
			return err
		}
	}
	if s.rec.Rounds++; s.rec.Rounds == 1 {
		if err := s.handler.Passed(ctx); err != nil {
			return err
		}
	}
	durable.Step("migration.memory")
	return nil
}

func (s *session) receive(r Range) error {
	for r.Length > 0 {
		p := s.buf[:min(r.Length, chunkBytes)]
		if err := s.extend(); err != nil {
			return err
		}
		if _, err := io.ReadFull(s.conn, p); err != nil {
			return s.lost(err)
		}
		if err := s.handler.Page(s.rec.Rounds+1, r.GPA, p); err != nil {
			return err
		}
		r.GPA, r.Length = r.GPA+uint64(len(p)), r.Length-uint64(len(p))
		s.rec.Bytes += int64(len(p))
	}
	return nil
}

// complete clones the disks and then refuses, so that the guest resumes here.
func (s *session) complete(ctx context.Context, c Command) error {
	if s.rec.Config == nil || s.rec.State == nil {
		return failure.New(failure.Damaged, "migration: %s before Config and State", c)
	}
	s.rec.Paused = c == CompletePaused
	if err := s.handler.Quiet(ctx); err != nil {
		return err
	}
	if err := s.extend(); err != nil {
		return err
	}
	durable.Step("migration.complete")
	if err := writeResponse(s.conn, statusError); err != nil {
		return s.lost(err)
	}
	durable.Step("migration.answered")
	return nil
}

// drain waits until the VMM has closed its end, so it has received our answer.
func (s *session) drain() error {
	for {
		if err := s.extend(); err != nil {
			return err
		}
		switch _, err := s.conn.Read(s.buf); {
		case errors.Is(err, io.EOF):
			return nil
		case err != nil:
			return s.lost(err)
		}
	}
}
