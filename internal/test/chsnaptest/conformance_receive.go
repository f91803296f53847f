package chsnaptest

import (
	"context"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// Messages of the migration protocol; chsnap/migration describes them.
const (
	msgStart          = 1
	msgConfig         = 2
	msgState          = 3
	msgMemory         = 4
	msgComplete       = 5
	msgAbandon        = 6
	msgCompletePaused = 8
)

// sender plays the peer of a VMM that waits in vm.receive-migration.
type sender struct {
	v      *vm
	socket string
	main   net.Conn
	answer chan string // of vm.receive-migration: status and body
}

// receive makes the VMM wait and connects to it.
func (v *vm) receive() *sender {
	v.t.Helper()
	s := &sender{v: v, socket: filepath.Join(v.dir, fmt.Sprintf("receive%d", time.Now().UnixNano())), answer: make(chan string, 1)}
	go func() {
		status, body, err := v.do(v.ctx, http.MethodPut, "vm.receive-migration", map[string]string{"receiver_url": "unix:" + s.socket})
		s.answer <- fmt.Sprintf("%d %s %v", status, body, err)
	}()
	s.main = s.connect()
	return s
}

func (s *sender) connect() net.Conn {
	s.v.t.Helper()
	var conn net.Conn
	err := s.v.until(s.v.ctx, "a migration socket", func() bool {
		c, err := net.Dial("unix", s.socket)
		conn = c
		return err == nil
	})
	if err != nil {
		s.v.t.Fatal(err)
	}
	s.v.t.Cleanup(func() { conn.Close() })
	return conn
}

// lane is a further connection for RAM.
func (s *sender) lane() net.Conn {
	c := s.connect()
	_, _ = c.Write([]byte{1, 0}) // what is wrong with it shows at the first answer
	return c
}

// message sends one message, raw bytes after it, and gives the answer's status:
// 1 is Ok, 2 Error, 0 a closed connection.
func (s *sender) message(c net.Conn, kind, version uint16, payload, raw []byte) uint16 {
	b := binary.LittleEndian.AppendUint16(nil, kind)
	b = binary.LittleEndian.AppendUint16(b, version)
	b = binary.LittleEndian.AppendUint64(append(b, 0, 0, 0, 0), uint64(len(payload)))
	deadline, _ := s.v.ctx.Deadline()
	_ = c.SetDeadline(deadline)
	if _, err := c.Write(append(append(b, payload...), raw...)); err != nil {
		return 0
	}
	var answer [16]byte
	if _, err := io.ReadFull(c, answer[:]); err != nil {
		return 0
	}
	return binary.LittleEndian.Uint16(answer[:])
}

func table(gpa, length uint64) []byte {
	return binary.LittleEndian.AppendUint64(binary.LittleEndian.AppendUint64(nil, gpa), length)
}

// parcel is a snapshot as the messages want it.
type parcel struct{ config, state, memory []byte }

// parcel prepares the shared snapshot for v: own serial port and disk.
func (v *vm) parcel(from *savedVM, edit func(*saved)) parcel {
	v.t.Helper()
	sv := v.own(from)
	if edit != nil {
		edit(sv)
	}
	var root map[string]any
	data, _ := sv.state["snapshot_data"].(map[string]any)
	text, _ := data["state"].(string)
	if err := decodeExact([]byte(text), &root); err != nil {
		v.t.Fatal(err)
	}
	sv.memory["memory_ranges"] = map[string]any{"data": []any{}}
	var p parcel
	var err error
	if p.config, err = json.Marshal(map[string]any{"vm_config": sv.config, "memory_manager_data": sv.memory, "common_cpuid": root["common_cpuid"]}); err != nil {
		v.t.Fatal(err)
	}
	if p.state, err = os.ReadFile(filepath.Join(from.dir, "state.json")); err != nil {
		v.t.Fatal(err)
	}
	if p.memory, err = os.ReadFile(filepath.Join(from.dir, "memory-ranges")); err != nil {
		v.t.Fatal(err)
	}
	return p
}

// opening sends Start and Config, which must succeed.
func (s *sender) opening(p parcel) {
	s.v.t.Helper()
	if s.message(s.main, msgStart, 0, nil, nil) != 1 || s.message(s.main, msgConfig, 0, p.config, nil) != 1 {
		s.v.t.Fatal("Start or Config was refused")
	}
}

// wantAnswer closes the connection and holds the answer of
// vm.receive-migration against a part of it.
func (s *sender) wantAnswer(want string) {
	s.v.t.Helper()
	s.main.Close()
	select {
	case got := <-s.answer:
		if !strings.Contains(got, want) {
			s.v.t.Errorf("vm.receive-migration answered %s, want %s", got, want)
		}
	case <-s.v.ctx.Done():
		s.v.t.Fatal("vm.receive-migration did not answer")
	}
}

// testReceive pushes only the pages that are not zero, over two lanes.
func testReceive(t *testing.T, s *suite) {
	for _, last := range []uint16{msgComplete, msgCompletePaused} {
		sn, w := s.snapshot(t), s.empty(t)
		p := w.parcel(sn, nil)
		r := w.receive()
		r.opening(p)
		lanes := []net.Conn{r.lane(), r.lane()}
		const step = 1 << 20
		for off := 0; off < len(p.memory); off += step {
			part := p.memory[off:min(off+step, len(p.memory))]
			if len(strings.Trim(string(part), "\x00")) == 0 {
				continue
			}
			if got := r.message(lanes[off/step%2], msgMemory, 0, table(uint64(off), uint64(len(part))), part); got != 1 {
				t.Fatalf("RAM at %#x: status %d", off, got)
			}
		}
		if a, b := r.message(r.main, msgState, 0, p.state, nil), r.message(r.main, last, 0, nil, nil); a != 1 || b != 1 {
			t.Fatalf("State %d, message %d %d", a, last, b)
		}
		r.wantAnswer("204")
		if last == msgCompletePaused {
			w.wantState("Paused")
			w.still()
			w.must("vm.resume", nil)
		}
		w.wantState("Running")
		w.continues(sn.last)
		if _, err := os.Stat(r.socket); err != nil {
			t.Errorf("the migration socket is gone: %v", err)
		}
	}
}

const (
	aborted = `500 ["Error from API","Error receiving migration","Failed to complete migration for migratable component","Migration was aborted"]`
	hungUp  = `500 ["Error from API","Error receiving migration","Socket error","failed to fill whole buffer"]`
)

// testReceiveRefusals: what the peer gets wrong is refused, and the VMM takes
// another VM afterwards where it was aborted.
func testReceiveRefusals(t *testing.T, s *suite) {
	sn := s.snapshot(t)
	for _, c := range []struct {
		name string
		edit func(*saved)
		play func(s *sender, p parcel) (got uint16)
		want uint16
		says string
	}{
		{"memory before config", nil, func(s *sender, _ parcel) uint16 {
			s.message(s.main, msgStart, 0, nil, nil)
			return s.message(s.main, msgMemory, 0, table(0, 4096), make([]byte, 4096))
		}, 2, aborted},
		{"state before config", nil, func(s *sender, p parcel) uint16 {
			s.message(s.main, msgStart, 0, nil, nil)
			return s.message(s.main, msgState, 0, p.state, nil)
		}, 2, aborted},
		{"complete before state", nil, func(s *sender, p parcel) uint16 {
			s.opening(p)
			return s.message(s.main, msgComplete, 0, nil, nil)
		}, 2, aborted},
		{"config is no JSON", nil, func(s *sender, _ parcel) uint16 {
			s.message(s.main, msgStart, 0, nil, nil)
			return s.message(s.main, msgConfig, 0, []byte("{"), nil)
		}, 2, aborted},
		{"an unknown protocol", nil, func(s *sender, _ parcel) uint16 { return s.message(s.main, msgStart, 9, nil, nil) }, 2, aborted},
		{"an unknown message", nil, func(s *sender, _ parcel) uint16 { return s.message(s.main, 77, 0, nil, nil) }, 0, "received request with unknown command"},
		{"memory outside RAM", nil, func(s *sender, p parcel) uint16 {
			s.opening(p)
			return s.message(s.main, msgMemory, 0, table(1<<40, 4096), make([]byte, 4096))
		}, 2, aborted},
		{"memory outside RAM on a lane", nil, func(s *sender, p parcel) uint16 {
			s.opening(p)
			if s.message(s.lane(), msgMemory, 0, table(1<<40, 4096), make([]byte, 4096)) != 0 {
				return 99
			}
			return s.message(s.main, msgState, 0, p.state, nil)
		}, 2, aborted},
		{"state on a lane", nil, func(s *sender, p parcel) uint16 {
			s.opening(p)
			if s.message(s.lane(), msgState, 0, p.state, nil) != 0 {
				return 99
			}
			return s.message(s.main, msgState, 0, p.state, nil)
		}, 2, aborted},
		{"no folder for serial", func(sv *saved) { sv.setSerial("/nonexistent/serial") }, func(s *sender, p parcel) uint16 {
			s.message(s.main, msgStart, 0, nil, nil)
			return s.message(s.main, msgConfig, 0, p.config, nil)
		}, 2, aborted},
		{"no disk", func(sv *saved) { sv.setDisk("/nonexistent") }, func(s *sender, p parcel) uint16 {
			s.opening(p)
			return s.message(s.main, msgState, 0, p.state, nil)
		}, 2, aborted},
		{"the peer abandons", nil, func(s *sender, p parcel) uint16 {
			s.opening(p)
			return s.message(s.main, msgAbandon, 0, nil, nil)
		}, 1, aborted},
		{"the peer goes", nil, func(s *sender, _ parcel) uint16 { return s.message(s.main, msgStart, 0, nil, nil) }, 1, hungUp},
	} {
		t.Run(strings.ReplaceAll(c.name, " ", "_"), func(t *testing.T) {
			w := s.empty(t)
			r := w.receive()
			if got := c.play(r, w.parcel(sn, c.edit)); got != c.want {
				t.Errorf("status %d, want %d", got, c.want)
			}
			r.wantAnswer(c.says)
			if status, _, err := w.do(w.ctx, http.MethodGet, "vm.info", nil); err != nil || status != http.StatusNotFound {
				t.Errorf("vm.info afterwards: %d, %v, want 404", status, err)
			}
			again, p := w.receive(), w.parcel(sn, nil)
			again.opening(p)
			if got := again.message(again.main, msgMemory, 0, table(0, guestBytes), p.memory); got != 1 {
				t.Errorf("RAM of a second attempt: status %d", got)
			}
			if a, b := again.message(again.main, msgState, 0, p.state, nil), again.message(again.main, msgComplete, 0, nil, nil); a != 1 || b != 1 {
				t.Errorf("a second attempt: State %d, Complete %d", a, b)
			}
			w.continues(sn.last)
		})
	}
}

// testReceiveBlocks: a VMM that waits for a peer answers nobody, ends for no
// SIGTERM, and its socket must not have been there.
func testReceiveBlocks(t *testing.T, s *suite) {
	w := s.empty(t)
	for url, want := range map[string]string{
		"bogus":                         "receiver_url", // v53.0 and later ones say in other words what it must be
		"unix:" + w.console.path + "/x": `"Error binding to UNIX socket","No such file or directory (os error 2)"`,
		"unix:" + w.socket:              `"Error binding to UNIX socket","Address already in use (os error 98)"`,
	} {
		status, body, err := w.do(w.ctx, http.MethodPut, "vm.receive-migration", map[string]string{"receiver_url": url})
		if err != nil || status != 500 || !strings.Contains(body, want) {
			t.Errorf("%s: status %d %s, error %v, want %s", url, status, body, err, want)
		}
	}
	status, body, err := s.running(t).do(w.ctx, http.MethodPut, "vm.receive-migration", map[string]string{"receiver_url": "unix:" + w.dir + "/y"})
	if err != nil || status != 500 || !strings.Contains(body, "Can't receive a migration when a VM is already created") {
		t.Errorf("beside a VM: status %d %s, error %v", status, body, err)
	}
	r := w.receive()
	ctx, cancel := context.WithTimeout(w.ctx, 200*time.Millisecond)
	defer cancel()
	if _, err := w.ping(ctx); err == nil {
		t.Error("a VMM that waits for a migration answered a ping")
	}
	if err := w.cmd.Process.Signal(os.Interrupt); err != nil {
		t.Fatal(err)
	}
	select {
	case <-w.exit:
		t.Error("a VMM that waits for a migration ended for a signal")
	case <-time.After(200 * time.Millisecond):
	}
	r.main.Close()
}
