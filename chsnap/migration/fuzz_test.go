package migration

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"net"
	"os"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// watched is a Handler that holds the stream to what it announced.
type watched struct {
	t      *testing.T
	ram    []Range
	bytes  int64
	passed int
	quiet  int
	rounds int
}

func (w *watched) RAM(_ context.Context, ram []Range) error {
	if w.ram != nil {
		w.t.Error("RAM was announced twice")
	}
	w.ram = ram
	return nil
}

func (w *watched) Page(round int, gpa uint64, p []byte) error {
	if !inside(Range{gpa, uint64(len(p))}, w.ram) || gpa%4096 != 0 || len(p)%4096 != 0 {
		w.t.Errorf("page %#x+%#x lies outside of %x", gpa, len(p), w.ram)
	}
	if round < w.rounds {
		w.t.Errorf("round %d after %d", round, w.rounds)
	}
	w.rounds = round
	w.bytes += int64(len(p))
	return nil
}

func (w *watched) Passed(context.Context) error { w.passed++; return nil }
func (w *watched) Quiet(context.Context) error  { w.quiet++; return nil }

// FuzzSession: whatever a peer sends, the handler gets pages of announced RAM
// only, and disks are cloned once, for a stream that has all of a VM.
func FuzzSession(f *testing.F) {
	f.Add(stream(
		command{Start, nil, nil}, command{Config, configFor(Range{0, 8192}), nil},
		command{Memory, encodeTable([]Range{{0, 4096}}), make([]byte, 4096)},
		command{Memory, encodeTable([]Range{{4096, 4096}}), make([]byte, 4096)},
		command{State, []byte(`{}`), nil}, command{Complete, nil, nil},
	))
	f.Add(stream(
		command{Config, configFor(Range{4096, 4096}, Range{0, 4096}), nil}, command{Memory, nil, nil},
		command{State, []byte(`[]`), nil}, command{CompletePaused, nil, nil},
	))
	f.Add(stream(command{Config, configFor(Range{0, 1<<64 - 4096}), nil}, command{Memory, encodeTable([]Range{{1 << 63, 4096}}), nil}))
	f.Fuzz(func(t *testing.T, b []byte) {
		w := &watched{t: t}
		s := &session{Recorder: &Recorder{Timeout: time.Minute}, conn: sent(t, b), handler: w, rec: &Recording{}, buf: make([]byte, chunkBytes)}
		defer s.conn.Close()
		err := s.run(t.Context())
		if w.bytes != s.rec.Bytes {
			t.Errorf("%d bytes of RAM came, %d were counted", w.bytes, s.rec.Bytes)
		}
		if err != nil {
			return // also when what follows Complete cannot be drained
		}
		if w.quiet != 1 || w.passed != 1 || s.rec.Rounds == 0 || !json.Valid(s.rec.Config) || !json.Valid(s.rec.State) || len(w.ram) == 0 {
			t.Errorf("a VM was recorded from %x: %+v", b, s.rec)
		}
	})
}

// command is one request; more follows its payload and is not counted in it.
type command struct {
	kind    Command
	payload []byte
	more    []byte
}

func stream(commands ...command) []byte {
	var b sink
	for _, c := range commands {
		if err := writeRequest(&b, c.kind, c.payload); err != nil {
			panic(err)
		}
		b = append(b, c.more...)
	}
	return b
}

type sink []byte

func (s *sink) Write(p []byte) (int, error) { *s = append(*s, p...); return len(p), nil }

// sent gives the end of a connection at which b arrives; the peer takes every
// answer.
func sent(t *testing.T, b []byte) *net.UnixConn {
	t.Helper()
	pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	near, far := connOf(t, pair[0]), connOf(t, pair[1])
	var wg sync.WaitGroup
	wg.Go(func() { // what the session leaves unread fails here, when it has closed its end
		_, err := far.Write(b)
		_ = errors.Join(err, far.CloseWrite())
	})
	wg.Go(func() { _, _ = io.Copy(io.Discard, far) })
	t.Cleanup(func() {
		wg.Wait()
		far.Close()
	})
	return near
}

func connOf(t *testing.T, fd int) *net.UnixConn {
	t.Helper()
	file := os.NewFile(uintptr(fd), "socket")
	defer file.Close()
	c, err := net.FileConn(file)
	if err != nil {
		t.Fatal(err)
	}
	return c.(*net.UnixConn)
}
