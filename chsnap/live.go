package chsnap

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"net/http"
	"os"
	"strings"
	"time"

	"github.com/cocoonv2/cocoon/chsnap/migration"
	"github.com/cocoonv2/cocoon/internal/base/failure"
	"github.com/cocoonv2/cocoon/internal/base/patience"
)

// MemorySink receives the RAM of a guest that is captured live.
type MemorySink interface {
	// Begin announces the RAM, by address, before any of it comes.
	Begin(ctx context.Context, ranges []Range) error
	// Page takes whole pages at gpa. Round 1 is all of RAM; later rounds bring
	// what the guest wrote meanwhile. p is reused after the call.
	Page(round int, gpa uint64, p []byte) error
}

// LiveOptions of CaptureLive.
type LiveOptions struct {
	Client *Client
	Socket string // where to listen for the stream; what is there is removed
	Memory MemorySink
	// WhilePaused runs while the guest is paused, after its RAM and devices were
	// saved: the disks are cloned.
	WhilePaused func(ctx context.Context) error
	Guard       GuardCommand
	Owed        string // as in GuardOptions
}

// RefusedError says that the VMM refused to begin a live capture; the guest is
// untouched.
type RefusedError struct{ Cause error }

func (e *RefusedError) Error() string {
	return "the VMM does not begin a live capture: " + e.Cause.Error()
}
func (e *RefusedError) Unwrap() error { return e.Cause }

// CaptureLive saves a VM while it runs: the VMM believes that it migrates to us,
// and keeps the guest when we refuse the very last message. RAM goes to o.Memory,
// never to a file of its own size. When CaptureLive returns the VM is in the
// state it was found in, unless its VMM died or hangs. If this process dies, the
// VMM notices and resumes the guest itself. If it is stopped, the VMM waits.
func CaptureLive(ctx context.Context, o LiveOptions) (*Captured, error) {
	if o.Client == nil || o.Socket == "" || o.Memory == nil {
		return nil, failure.New(failure.Usage, "a live capture needs a Client, a Socket and a Memory to put RAM into")
	}
	ping, err := o.Client.Ping(ctx)
	if err != nil {
		return nil, err
	}
	info, err := o.Client.Info(ctx)
	if err != nil {
		return nil, err
	}
	if info.State != "Running" && info.State != "Paused" {
		return nil, failure.New(failure.Conflict, "the VM is %s", info.State)
	}
	if why := LiveRefusal(ping.Version, info.Config); why != "" {
		return nil, &RefusedError{failure.New(failure.Incompatible, "%s", why)}
	}
	// When we die, the VMM sees it and resumes the guest by itself. When we are
	// stopped, it waits for us.
	guard := &Guard{}
	if info.State == "Running" {
		if guard, err = StartGuard(GuardOptions{Command: o.Guard, Client: o.Client, Owed: o.Owed}); err != nil {
			return nil, err
		}
	}
	defer guard.Release()
	rec, err := o.record(ctx, info.Config.MemoryBytes(), guard)
	var refused *RefusedError
	if errors.As(err, &refused) {
		return nil, err
	}
	back := o.Client.givenBack(context.WithoutCancel(ctx), info.State)
	returned := time.Now()
	if err = errors.Join(err, back); err != nil {
		return nil, err
	}
	c, err := recorded(rec)
	if err != nil {
		return nil, fmt.Errorf("what the VMM sent: %w", err)
	}
	c.Version = ping.Is()
	if info.State == "Running" {
		c.PauseMs = float64(returned.Sub(rec.LastRan).Microseconds()) / 1000
	}
	return c, nil
}

// record lets the VMM send to us and receives until the VMM has closed the
// stream.
func (o LiveOptions) record(ctx context.Context, ram uint64, guard *Guard) (*migration.Recording, error) {
	if err := os.Remove(o.Socket); err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, fmt.Errorf("remove old migration socket: %w", err)
	}
	r, err := migration.Listen(o.Socket, o.Client.patience.Call())
	if err != nil {
		return nil, err
	}
	defer r.Close()
	if err := o.Client.beginMigration(ctx, o.Socket, ram); err != nil {
		return nil, err
	}
	return r.Record(ctx, &recordHandler{o: o, guard: guard})
}

// beginMigration waits for the end of a migration whose recorder was just killed:
// the VMM aborts it once it notices that nobody reads.
func (c *Client) beginMigration(ctx context.Context, socket string, ram uint64) error {
	ctx, cancel := patience.Bound(ctx, c.patience.Call())
	defer cancel()
	for {
		err := c.sendMigration(ctx, socket, ram)
		if !migrating(err) || ctx.Err() != nil {
			return err
		}
		time.Sleep(5 * time.Millisecond)
	}
}

// downtimeMs is the pause that the VMM aims at. It sends rounds of dirty pages
// until the next one would take no longer.
const downtimeMs = 5

// slowestStream is the lowest expected rate of the pre-copy of RAM, bytes a
// second: a guest that dirties it faster is paused when the time is over.
const slowestStream = 128 << 20

// sendMigration asks the VMM to send itself to a socket. It returns at once; a
// refused call is a RefusedError.
func (c *Client) sendMigration(ctx context.Context, socket string, ram uint64) error {
	seconds := 10 + int(math.Ceil(float64(ram)/slowestStream))
	_, err := c.call(ctx, c.patience.Call(), http.MethodPut, "vm.send-migration", struct {
		URL      string `json:"destination_url"`
		Local    bool   `json:"local"` // false: pages over the socket, no shared memory needed
		Downtime int    `json:"downtime_ms"`
		Seconds  int    `json:"timeout_s"`
		// Ignore: if the rounds do not converge in time, the last one is longer.
		// With the other choice a busy guest could never be saved.
		Strategy string `json:"timeout_strategy"`
	}{"unix:" + socket, false, downtimeMs, seconds, "Ignore"})
	var refused *APIError
	if errors.As(err, &refused) {
		return &RefusedError{err}
	}
	return err
}

// givenBack waits until the VMM has ended the migration and the guest is in its
// former state. During a migration vm.info shows the state at its start, so only
// a call that would change the state tells the truth.
func (c *Client) givenBack(ctx context.Context, state string) error {
	if state == "Running" {
		return c.EnsureRunning(ctx, c.patience.Call())
	}
	return c.ensure(ctx, "vm.pause", state, c.patience.Call())
}

// migrating reports whether the VMM refused a call because it is still sending.
func migrating(err error) bool {
	var e *APIError
	return errors.As(err, &e) && (strings.Contains(e.Error(), "currently migrating") || strings.Contains(e.Error(), "ongoing migration"))
}

// recordHandler is the capture's side of the stream.
type recordHandler struct {
	o     LiveOptions
	guard *Guard
}

func (h *recordHandler) RAM(ctx context.Context, ram []migration.Range) error {
	return h.o.Memory.Begin(ctx, rangesOf(ram))
}

func (h *recordHandler) Page(round int, gpa uint64, p []byte) error {
	return h.o.Memory.Page(round, gpa, p)
}

// Passed: from here on the VMM may pause the guest at any time. Before that it
// waits for us with a running guest, possibly for long.
func (h *recordHandler) Passed(ctx context.Context) error { return h.guard.Arm(ctx) }

func (h *recordHandler) Quiet(ctx context.Context) error {
	if h.o.WhilePaused == nil {
		return nil
	}
	return h.o.WhilePaused(ctx)
}

func rangesOf(ram []migration.Range) []Range {
	out := make([]Range, len(ram))
	for i, r := range ram {
		out[i] = Range(r)
	}
	return out
}

// recorded makes the documents of a snapshot folder from what came beside RAM.
func recorded(rec *migration.Recording) (*Captured, error) {
	cb, err := get(rec.Config, "vm_config")
	if err != nil {
		return nil, err
	}
	d := &Dir{Ranges: rangesOf(rec.RAM)}
	if d.Config, err = ParseConfig(cb); err != nil {
		return nil, err
	}
	if d.State, err = ParseState(rec.State); err != nil {
		return nil, err
	}
	err = d.State.editMemoryManager(func(mm []byte) ([]byte, error) {
		table, err := json.Marshal(map[string][]Range{"data": d.Ranges})
		if err != nil {
			return nil, err
		}
		return set(mm, "memory_ranges", json.RawMessage(table))
	})
	if err != nil {
		return nil, err
	}
	return &Captured{Dir: d}, Normalise(d.Config, d.State)
}
