package migration

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"time"

	"golang.org/x/sync/errgroup"
)

// Extent is guest RAM to be pushed: Data is written at GPA.
type Extent struct {
	GPA  uint64
	Data []byte
}

// Pusher sends one VM to a VMM that waits in vm.receive-migration.
type Pusher struct {
	Socket      string
	Connections int           // extra connections for RAM; 0 sends it on the first
	Timeout     time.Duration // of every single answer
	Paused      bool          // leave the guest paused
}

// Push sends config, then every extent that next returns until ok is false,
// then state. next is called from several goroutines; its Data must stay
// unchanged until release is called. After a nil error the guest runs (or is
// paused, as asked).
func (p *Pusher) Push(ctx context.Context, config, state []byte, next func() (e Extent, release func(), ok bool, err error)) error {
	main, err := p.dial(ctx)
	if err != nil {
		return err
	}
	defer main.Close()
	stop := context.AfterFunc(ctx, func() { main.Close() })
	defer stop()
	if err := p.request(main, Start, nil); err != nil {
		return err
	}
	if err := p.request(main, Config, config); err != nil {
		return err
	}
	if err := p.memory(ctx, main, next); err != nil {
		return errors.Join(ctx.Err(), err)
	}
	if err := p.request(main, State, state); err != nil {
		return err
	}
	last := Complete
	if p.Paused {
		last = CompletePaused
	}
	return p.request(main, last, nil)
}

// dial waits for the socket: the VMM binds it some time after the call came in.
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
		case <-time.After(time.Millisecond):
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

func (p *Pusher) memory(ctx context.Context, main *net.UnixConn, next func() (Extent, func(), bool, error)) error {
	if p.Connections == 0 {
		return p.stream(ctx, main, next)
	}
	g, gctx := errgroup.WithContext(ctx)
	for range p.Connections {
		g.Go(func() error {
			c, err := p.dial(gctx)
			if err != nil {
				return err
			}
			defer c.Close()
			stop := context.AfterFunc(gctx, func() { c.Close() })
			defer stop()
			var role [2]byte
			binary.LittleEndian.PutUint16(role[:], roleMemory)
			if _, err := c.Write(role[:]); err != nil {
				return fmt.Errorf("migration: name the role of a connection: %w", err)
			}
			return p.stream(gctx, c, next)
		})
	}
	return g.Wait()
}

// stream sends extents on one connection, each acknowledged: at State the VMM
// drops whatever it has not acknowledged yet.
func (p *Pusher) stream(ctx context.Context, c *net.UnixConn, next func() (Extent, func(), bool, error)) error {
	for ctx.Err() == nil {
		e, release, ok, err := next()
		if err != nil || !ok {
			return err
		}
		err = p.extent(c, e)
		release()
		if err != nil {
			return err
		}
	}
	return ctx.Err()
}

func (p *Pusher) extent(c *net.UnixConn, e Extent) error {
	if err := c.SetDeadline(time.Now().Add(p.Timeout)); err != nil {
		return err
	}
	if err := writeRequest(c, Memory, encodeTable([]Range{{e.GPA, uint64(len(e.Data))}})); err != nil {
		return err
	}
	if _, err := c.Write(e.Data); err != nil {
		return fmt.Errorf("migration: send RAM at %#x: %w", e.GPA, err)
	}
	return readResponse(c, Memory)
}
