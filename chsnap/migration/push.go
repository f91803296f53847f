package migration

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"time"

	"golang.org/x/sys/unix"

	"github.com/cocoonv2/cocoon/internal/base/failure"
)

// Extent is guest RAM to be pushed: Data is written at GPA.
type Extent struct {
	GPA  uint64
	Data []byte
}

// Pusher sends one VM to a VMM that waits in vm.receive-migration.
type Pusher struct {
	Socket  string
	Lanes   int           // connections that carry RAM, at least 1
	Timeout time.Duration // of every single answer
}

// Push sends config, then the RAM that ram sends over the lanes, then state, and
// leaves the guest loaded and paused. ram returns when it has sent everything;
// RAM that it does not send is zero. After any error the state of the VMM is
// unknown: it may wait for ever and must be killed.
func (p *Pusher) Push(ctx context.Context, config, state []byte, ram func(ctx context.Context, lanes []*Lane) error) error {
	if p.Socket == "" || p.Timeout <= 0 {
		return failure.New(failure.Usage, "migration: a Pusher needs a Socket and a Timeout: %q, %s", p.Socket, p.Timeout)
	}
	main, err := p.dial(ctx)
	if err != nil {
		return err
	}
	defer main.Close()
	stop := context.AfterFunc(ctx, func() { main.Close() })
	defer stop()
	for _, step := range []func() error{
		func() error { return p.request(main, Start, nil) },
		func() error { return p.request(main, Config, config) },
		func() error { return p.memory(ctx, ram) },
		func() error { return p.request(main, State, state) },
		func() error { return p.request(main, CompletePaused, nil) },
	} {
		if err := step(); err != nil {
			return errors.Join(ctx.Err(), err)
		}
	}
	return nil
}

// dial waits for the socket: the VMM binds it some time after the call arrived.
func (p *Pusher) dial(ctx context.Context) (*net.UnixConn, error) {
	deadline := time.Now().Add(p.Timeout)
	for {
		c, err := net.DialUnix("unix", nil, &net.UnixAddr{Name: p.Socket, Net: "unix"})
		if err == nil {
			return c, nil
		}
		if time.Now().After(deadline) {
			return nil, fmt.Errorf("migration: connect to the VMM: %w", err)
		}
		select {
		case <-ctx.Done():
			return nil, ctx.Err()
		case <-time.After(500 * time.Microsecond):
		}
	}
}

func (p *Pusher) request(c *net.UnixConn, cmd Command, payload []byte) error {
	if err := c.SetDeadline(time.Now().Add(p.Timeout)); err != nil {
		return err
	}
	if err := writeRequest(c, cmd, payload); err != nil {
		return err
	}
	return readResponse(c, cmd)
}

// memory opens the lanes, has RAM sent, and waits until all of it was
// acknowledged: at State the VMM drops the rest.
func (p *Pusher) memory(ctx context.Context, ram func(context.Context, []*Lane) error) error {
	var lanes []*Lane
	defer func() {
		for _, l := range lanes {
			l.conn.Close()
		}
	}()
	for range max(1, p.Lanes) {
		l, err := p.lane(ctx)
		if err != nil {
			return err
		}
		lanes = append(lanes, l)
	}
	stop := context.AfterFunc(ctx, func() {
		for _, l := range lanes {
			l.conn.Close()
		}
	})
	defer stop()
	if err := ram(ctx, lanes); err != nil {
		return err
	}
	for _, l := range lanes {
		if err := l.settle(); err != nil {
			return err
		}
	}
	return nil
}

// Lane is one connection that carries RAM. It is for one goroutine at a time.
type Lane struct {
	conn    *net.UnixConn
	timeout time.Duration
	owed    bool // an answer to the last Send
	ranges  []Range
	buffers net.Buffers
}

func (p *Pusher) lane(ctx context.Context) (*Lane, error) {
	c, err := p.dial(ctx)
	if err != nil {
		return nil, err
	}
	growBuffer(c)
	var role [2]byte
	binary.LittleEndian.PutUint16(role[:], roleMemory)
	if _, err := c.Write(role[:]); err != nil {
		return nil, errors.Join(fmt.Errorf("migration: name the role of a connection: %w", err), c.Close())
	}
	return &Lane{conn: c, timeout: p.Timeout}, nil
}

// laneBuffer is what the kernel holds of a lane, bytes: a frame, so that the
// next one is decoded while the VMM still takes this one.
const laneBuffer = 2 << 20

// growBuffer asks for a larger buffer than the host's default; one that the
// kernel refuses only costs speed.
func growBuffer(c *net.UnixConn) {
	if raw, err := c.SyscallConn(); err == nil {
		_ = raw.Control(func(fd uintptr) { _ = unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_SNDBUFFORCE, laneBuffer) })
	}
}

// Send sends extents in one message; adjacent ones become one range. It returns
// once the last byte is handed over; the next call waits for the answer.
func (l *Lane) Send(extents []Extent) error {
	if err := l.settle(); err != nil {
		return err
	}
	l.ranges, l.buffers = l.ranges[:0], l.buffers[:0]
	for _, e := range extents {
		l.buffers = append(l.buffers, e.Data)
		if n := len(l.ranges); n > 0 && l.ranges[n-1].GPA+l.ranges[n-1].Length == e.GPA {
			l.ranges[n-1].Length += uint64(len(e.Data))
			continue
		}
		l.ranges = append(l.ranges, Range{e.GPA, uint64(len(e.Data))})
	}
	if err := l.conn.SetDeadline(time.Now().Add(l.timeout)); err != nil {
		return err
	}
	if err := writeRequest(l.conn, Memory, encodeTable(l.ranges)); err != nil {
		return err
	}
	rest := l.buffers
	if _, err := rest.WriteTo(l.conn); err != nil {
		return fmt.Errorf("migration: send RAM at %#x: %w", extents[0].GPA, err)
	}
	l.owed = true
	return nil
}

// settle waits for the answer to the last Send.
func (l *Lane) settle() error {
	if !l.owed {
		return nil
	}
	if err := l.conn.SetDeadline(time.Now().Add(l.timeout)); err != nil {
		return err
	}
	l.owed = false
	return readResponse(l.conn, Memory)
}
