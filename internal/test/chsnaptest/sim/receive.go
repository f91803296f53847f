package sim

import (
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"strings"
	"sync"
)

// receiver is one vm.receive-migration under way: a VM arrives on the first
// connection, its RAM also on further ones. Like the real VMM it waits for ever
// and lets no other call through meanwhile.
type receiver struct {
	m        *machine
	listener *net.UnixListener
	step     string // of the protocol: "", started, configured, loaded
	config   *vmConfig
	saved    *savedState
	ram      *ram

	group  sync.WaitGroup // of the lanes
	mu     sync.Mutex     // of what follows
	lanes  []net.Conn
	closed bool // no lane is let in any more
	broken bool // a lane was refused
	stuck  bool // a lane ended inside a message
}

// receive waits on a socket for a VM; nil once it is there. The socket file
// stays behind in every case.
func (m *machine) receive(url string) error {
	if m.config != nil || m.vm != nil {
		return within(faultf("Can't receive a migration when a VM is already created"), receiving)
	}
	path, ok := strings.CutPrefix(url, "unix:")
	if !ok {
		return within(faultf("Invalid receive migration configuration",
			"Error validating receive migration parameters: receiver_url must use tcp:<host>:<port> or unix:<path>."), receiving)
	}
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
	if err != nil {
		return within(faultf("Error binding to UNIX socket").because(err), receiving)
	}
	l.SetUnlinkOnClose(false)
	defer l.Close()
	r := &receiver{m: m, listener: l}
	conn, err := l.Accept()
	if err != nil {
		return within(faultf("Error accepting a connection").because(err), receiving)
	}
	defer conn.Close()
	err = r.serve(conn)
	r.end()
	if err != nil && r.ram != nil && (m.vm == nil || m.vm.ram != r.ram) {
		r.ram.close()
	}
	return err
}

const receiving = "Failed to receive migratable component snapshot"

// errAborted is the answer after a refused command: the cause stands in the log
// only, and the VMM is empty again.
func (r *receiver) errAborted() error {
	_ = r.m.delete()
	return faultf("Failed to complete migration for migratable component", "Migration was aborted")
}

// serve takes commands until the VM is complete.
func (r *receiver) serve(conn net.Conn) error {
	for {
		q, err := readRequest(conn)
		switch {
		case errors.Is(err, errUnknownCommand):
			return within(faultf("received request with unknown command"), receiving)
		case err != nil: // the peer has gone: what was configured stays
			return faultf("Socket error", "failed to fill whole buffer")
		case q.command == wireAbandon:
			_ = writeAnswer(conn, true)
			return r.errAborted()
		}
		done := false
		err = r.inject("receive."+strings.ToLower(q.command.String()), func() (err error) {
			done, err = r.handle(q, conn)
			return err
		})
		if sent := writeAnswer(conn, err == nil); err != nil || sent != nil {
			return r.errAborted()
		}
		if done {
			return nil
		}
	}
}

var errInjected = errors.New("injected failure")

// inject does a message's work with the failpoints of its name around it.
func (r *receiver) inject(name string, do func() error) error {
	rule := r.m.settings.fail.next(name)
	switch rule.action {
	case actHang, actDie, actSlow:
		r.m.before(rule, endpoint{})
	case actFail:
		return errInjected
	}
	err := do()
	switch rule.action {
	case actLateHang, actLateDie:
		r.m.after(rule, endpoint{})
	case actLateFail:
		return errInjected
	}
	return err
}

// handle does one command in its turn; done is true once the VM is there.
func (r *receiver) handle(q request, conn net.Conn) (done bool, err error) {
	switch {
	case q.command == wireStart && r.step == "":
		r.step = "started"
		if q.version > 1 {
			return false, fmt.Errorf("protocol version %d", q.version)
		}
		return false, nil
	case q.command == wireConfig && r.step == "started":
		r.step = "configured"
		return false, r.configure(q.payload)
	case q.command == wireMemory && r.step == "configured":
		return false, r.fill(q, conn)
	case q.command == wireState && r.step == "configured":
		r.step = "loaded"
		return false, r.load(q.payload)
	case q.command == wireComplete && r.step == "loaded":
		return true, r.m.resume()
	case q.command == wireCompletePaused && r.step == "loaded":
		return true, nil
	}
	return false, fmt.Errorf("%s out of turn", q.command)
}

// configure maps the RAM and lets further connections in.
func (r *receiver) configure(payload []byte) error {
	var c struct {
		Config json.RawMessage `json:"vm_config"`
		Memory memoryState     `json:"memory_manager_data"`
	}
	if err := json.Unmarshal(payload, &c); err != nil {
		return err
	}
	config, err := parseConfig(c.Config)
	if err != nil {
		return err
	}
	if err := config.validate(); err != nil {
		return err
	}
	f, err := openSerial(config)
	if err != nil {
		return err
	}
	if f != nil {
		f.Close()
	}
	spans, err := spansOf(config, &savedState{memory: c.Memory})
	if err != nil {
		return err
	}
	if r.ram, err = newRAM(spans, &config.Memory); err != nil {
		return err
	}
	r.config, r.m.config = config, config
	go r.accept()
	return nil
}

func (r *receiver) accept() {
	for {
		conn, err := r.listener.Accept()
		if err != nil {
			return
		}
		r.mu.Lock()
		if r.closed {
			conn.Close()
		} else {
			r.lanes = append(r.lanes, conn)
			r.group.Go(func() { r.lane(conn) })
		}
		r.mu.Unlock()
	}
}

// lane takes RAM on a further connection until it is closed.
func (r *receiver) lane(conn net.Conn) {
	defer conn.Close()
	if role, err := readRole(conn); err != nil || role != roleMemory {
		return
	}
	for {
		q, err := readRequest(conn)
		if err != nil {
			return
		}
		err = r.inject("receive.lane", func() error {
			if q.command != wireMemory {
				return errOutside
			}
			return r.fill(q, conn)
		})
		switch {
		case errors.Is(err, errOutside), errors.Is(err, errInjected):
			r.note(&r.broken)
			return
		case err != nil:
			r.note(&r.stuck)
			return
		}
		if writeAnswer(conn, true) != nil {
			return
		}
	}
}

func (r *receiver) note(flag *bool) {
	r.mu.Lock()
	*flag = true
	r.mu.Unlock()
}

// fill reads the bytes that follow a table straight into RAM.
func (r *receiver) fill(q request, conn net.Conn) error {
	for _, t := range q.ranges() {
		mem := r.ram.at(t.GPA, int(t.Length))
		if mem == nil {
			return errOutside
		}
		if err := readBytes(conn, mem); err != nil {
			return err
		}
	}
	return nil
}

var errOutside = errors.New("guest memory error: no such address")

// load drops the lanes and builds the VM, paused.
func (r *receiver) load(payload []byte) error {
	r.end()
	if r.stuck {
		hang() // the real VMM waits for a worker that never ends
	}
	if r.broken {
		return errOutside
	}
	var err error
	if r.saved, err = parseState(payload); err != nil {
		return err
	}
	r.m.config = nil
	return r.m.assemble(r.config, nil, assembly{ram: r.ram, missing: r.saved.missing(r.config)})
}

// end closes listener and lanes and waits for the lanes' goroutines.
func (r *receiver) end() {
	r.listener.Close()
	r.mu.Lock()
	r.closed = true
	for _, c := range r.lanes {
		c.Close()
	}
	r.mu.Unlock()
	r.group.Wait()
}
