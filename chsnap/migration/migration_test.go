package migration

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"net"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/cocoonv2/cocoon/internal/base/failure"
)

// memory is a Handler that keeps RAM as one slice per range.
type memory struct {
	ram    []Range
	pages  map[uint64][]byte // by start of range
	rounds int               // the last of which a page came
	passed int               // rounds when it was called
	quiet  int
	refuse error
}

func (m *memory) RAM(_ context.Context, ram []Range) error {
	m.ram, m.pages = ram, map[uint64][]byte{}
	for _, r := range ram {
		m.pages[r.GPA] = make([]byte, r.Length)
	}
	return m.refuse
}

func (m *memory) Page(round int, gpa uint64, p []byte) error {
	m.rounds = round
	for _, r := range m.ram {
		if inside(Range{gpa, uint64(len(p))}, []Range{r}) {
			copy(m.pages[r.GPA][gpa-r.GPA:], p)
		}
	}
	return nil
}

func (m *memory) Passed(context.Context) error { m.passed = m.rounds; return nil }
func (m *memory) Quiet(context.Context) error  { m.quiet++; return nil }

func configFor(ram ...Range) []byte {
	type mapping struct {
		GPA  uint64 `json:"gpa"`
		Size uint64 `json:"size"`
	}
	var c struct {
		Memory struct {
			Mappings []mapping `json:"guest_ram_mappings"`
		} `json:"memory_manager_data"`
	}
	for _, r := range ram {
		c.Memory.Mappings = append(c.Memory.Mappings, mapping{r.GPA, r.Length})
	}
	b, _ := json.Marshal(c)
	return b
}

func record(t *testing.T, h Handler, peer func(c *net.UnixConn)) (*Recording, error) {
	t.Helper()
	path := filepath.Join(t.TempDir(), "s")
	r, err := Listen(path, 2*time.Second)
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	var wg sync.WaitGroup
	wg.Go(func() {
		c, err := net.DialUnix("unix", nil, &net.UnixAddr{Name: path, Net: "unix"})
		if err != nil {
			t.Error(err)
			return
		}
		defer c.Close()
		peer(c)
	})
	rec, err := r.Record(t.Context(), h)
	wg.Wait()
	return rec, err
}

// sendRange is one Memory command as the VMM sends it.
func sendRange(c *net.UnixConn, gpa uint64, data []byte) error {
	if err := writeRequest(c, Memory, encodeTable([]Range{{gpa, uint64(len(data))}})); err != nil {
		return err
	}
	if _, err := c.Write(data); err != nil {
		return err
	}
	return readResponse(c, Memory)
}

func TestLaterRoundsOverrideEarlierOnesAndTheAnswerIsError(t *testing.T) {
	first, second := bytes.Repeat([]byte{1}, 8192), bytes.Repeat([]byte{2}, 4096)
	m := &memory{}
	var answer error
	rec, err := record(t, m, func(c *net.UnixConn) {
		p := &Pusher{Timeout: time.Second}
		for _, err := range []error{
			p.request(c, Start, nil), p.request(c, Config, configFor(Range{0, 8192})),
			sendRange(c, 0, first), sendRange(c, 4096, second), p.request(c, State, []byte(`{}`)),
		} {
			if err != nil {
				t.Error(err)
			}
		}
		answer = p.request(c, Complete, nil)
	})
	if err != nil {
		t.Fatal(err)
	}
	if answer == nil {
		t.Error("Complete was answered Ok: the VMM would have ended the guest")
	}
	if want := append(first[:4096:4096], second...); !bytes.Equal(m.pages[0], want) {
		t.Error("the dirty page did not override the first pass")
	}
	if rec.Rounds != 2 || rec.Bytes != 12288 || m.quiet != 1 || m.passed != 1 || rec.Paused {
		t.Errorf("recording %+v, quiet called %d times, passed after round %d", rec, m.quiet, m.passed)
	}
}

func TestWhatThePeerGetsWrongIsRefused(t *testing.T) {
	p := &Pusher{Timeout: time.Second}
	start := func(c *net.UnixConn) { p.request(c, Start, nil); p.request(c, Config, configFor(Range{0, 8192})) }
	for name, tc := range map[string]struct {
		peer  func(c *net.UnixConn)
		class error
	}{
		"memory outside RAM": {func(c *net.UnixConn) { start(c); sendRange(c, 8192, make([]byte, 4096)) }, failure.Damaged},
		"length wraps":       {func(c *net.UnixConn) { start(c); writeRequest(c, Memory, encodeTable([]Range{{4096, 1<<64 - 4096}})) }, failure.Damaged},
		"unaligned":          {func(c *net.UnixConn) { start(c); sendRange(c, 512, make([]byte, 4096)) }, failure.Damaged},
		"state first":        {func(c *net.UnixConn) { start(c); p.request(c, State, []byte("{}")) }, failure.Damaged},
		"memory first":       {func(c *net.UnixConn) { p.request(c, Start, nil); sendRange(c, 0, make([]byte, 4096)) }, failure.Damaged},
		"complete first":     {func(c *net.UnixConn) { start(c); p.request(c, Complete, nil) }, failure.Damaged},
		"config is not JSON": {func(c *net.UnixConn) { p.request(c, Config, []byte("{")) }, failure.Damaged},
		"RAM overlaps":       {func(c *net.UnixConn) { p.request(c, Config, configFor(Range{0, 8192}, Range{4096, 8192})) }, failure.Damaged},
		"no RAM":             {func(c *net.UnixConn) { p.request(c, Config, configFor()) }, failure.Damaged},
		"unknown command":    {func(c *net.UnixConn) { p.request(c, 77, nil) }, failure.Incompatible},
		"absurd length":      {func(c *net.UnixConn) { c.Write([]byte{2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1}) }, failure.Damaged},
		"newer protocol":     {func(c *net.UnixConn) { c.Write([]byte{1, 0, 9, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0}) }, failure.Incompatible},
	} {
		t.Run(name, func(t *testing.T) {
			m := &memory{}
			_, err := record(t, m, tc.peer)
			if !errors.Is(err, tc.class) {
				t.Errorf("got %v, want %v", err, tc.class)
			}
			if m.quiet != 0 {
				t.Error("disks would have been cloned from a broken stream")
			}
		})
	}
}

func TestAStalledPeerTimesOut(t *testing.T) {
	path := filepath.Join(t.TempDir(), "s")
	r, err := Listen(path, 50*time.Millisecond)
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	c, err := net.Dial("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	var ne net.Error
	if _, err := r.Record(t.Context(), &memory{}); !errors.As(err, &ne) || !ne.Timeout() {
		t.Errorf("got %v, want a time-out", err)
	}
}

func TestCancelEndsTheWait(t *testing.T) {
	r, err := Listen(filepath.Join(t.TempDir(), "s"), time.Hour)
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := r.Record(ctx, &memory{}); !errors.Is(err, context.Canceled) {
		t.Errorf("got %v, want cancelled", err)
	}
}

func FuzzReadHeader(f *testing.F) {
	f.Add([]byte{1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0})
	f.Add([]byte{4, 0, 0, 0, 0, 0, 0, 0, 16, 0, 0, 0, 0, 0, 0, 0})
	f.Fuzz(func(t *testing.T, b []byte) {
		h, err := readHeader(bytes.NewReader(b))
		if err == nil && h.length > maxJSONBytes {
			t.Errorf("length %d was believed", h.length)
		}
	})
}

func FuzzDecodeTable(f *testing.F) {
	f.Add(encodeTable([]Range{{0, 4096}}))
	f.Add(encodeTable([]Range{{4096, 1<<64 - 1}}))
	ram := []Range{{0, 1 << 30}, {4 << 30, 1 << 30}}
	f.Fuzz(func(t *testing.T, b []byte) {
		got, err := decodeTable(b, ram)
		if err != nil {
			return
		}
		for _, r := range got {
			if !(r.GPA+r.Length <= 1<<30 || r.GPA >= 4<<30 && r.GPA+r.Length <= 5<<30) || r.GPA+r.Length < r.GPA {
				t.Errorf("%+v was let through", r)
			}
		}
	})
}
