package chsnap

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"strings"
	"syscall"
	"time"

	"github.com/cocoonv2/cocoon/internal/base/failure"
	"github.com/cocoonv2/cocoon/internal/base/patience"
)

// answerLimit limits an answer, bytes.
const answerLimit = 16 << 20

// ErrUnreachable says that no VMM answers on the socket.
var ErrUnreachable = errors.New("the VMM does not answer")

// errNobodyListens is a permanent ErrUnreachable: the VMM is gone.
var errNobodyListens = fmt.Errorf("%w: no VMM listens", ErrUnreachable)

// Client speaks the REST API of one VMM process. The VMM answers one request at a
// time and has no time-out of its own.
type Client struct {
	socket   string
	http     *http.Client
	patience patience.Patience
}

// NewClient makes a client; it does not connect yet. The VMM keeps at most ten
// connections, idle ones included, so each call uses its own. p limits each call.
func NewClient(socket string, p Patience) *Client {
	dial := func(ctx context.Context, _, _ string) (net.Conn, error) {
		return (&net.Dialer{}).DialContext(ctx, "unix", socket)
	}
	return &Client{socket: socket, patience: p, http: &http.Client{Transport: &http.Transport{DialContext: dial, DisableKeepAlives: true}}}
}

// Socket is the path of the API socket.
func (c *Client) Socket() string { return c.socket }

// APIError is an error answer of the VMM. Chain holds its messages, outermost
// first.
type APIError struct {
	Call   string
	Status int
	Chain  []string
}

func (e *APIError) Error() string {
	return fmt.Sprintf("%s: the VMM answered %d: %s", e.Call, e.Status, strings.Join(e.Chain, ": "))
}

// parseError reads the error body: since v47 a JSON array of messages, before
// that plain text; a Rust backtrace may follow.
func parseError(call string, status int, body []byte) *APIError {
	e := &APIError{Call: call, Status: status}
	if json.Unmarshal(body, &e.Chain) != nil {
		e.Chain = []string{string(body)}
	}
	for i, m := range e.Chain {
		m, _, _ = strings.Cut(m, "\n\nStack backtrace")
		e.Chain[i] = strings.TrimSpace(strings.ReplaceAll(m, "\n", " "))
	}
	return e
}

// call makes one request; with timeout 0 only ctx ends it.
func (c *Client) call(ctx context.Context, timeout time.Duration, method, path string, body any) ([]byte, error) {
	if timeout > 0 {
		var cancel context.CancelFunc
		ctx, cancel = patience.Bound(ctx, timeout)
		defer cancel()
	}
	req, err := newRequest(ctx, method, path, body)
	if err != nil {
		return nil, err
	}
	resp, err := c.http.Do(req)
	if err != nil {
		return nil, c.unreachable(ctx, path, err)
	}
	defer resp.Body.Close()
	answer, err := io.ReadAll(io.LimitReader(resp.Body, answerLimit))
	if err != nil {
		return nil, c.unreachable(ctx, path, err)
	}
	if resp.StatusCode >= 300 {
		return nil, parseError(path, resp.StatusCode, answer)
	}
	return answer, nil
}

func newRequest(ctx context.Context, method, path string, body any) (*http.Request, error) {
	var r io.Reader
	if body != nil {
		b, err := encode(body)
		if err != nil {
			return nil, err
		}
		r = bytes.NewReader(b) // fixed length: chunked bodies are not decoded by the VMM
	}
	req, err := http.NewRequestWithContext(ctx, method, "http://vmm/api/v1/"+path, r)
	if err == nil && body != nil {
		req.Header.Set("Content-Type", "application/json")
	}
	return req, err
}

// unreachable distinguishes a dead VMM from one that hangs.
func (c *Client) unreachable(ctx context.Context, path string, err error) error {
	switch {
	case errors.Is(ctx.Err(), context.Canceled):
		return fmt.Errorf("%s: %w", path, context.Canceled)
	case errors.Is(err, context.DeadlineExceeded):
		return failure.New(failure.Conflict, "%s: %w %s", path, ErrUnreachable, patience.Passed(ctx))
	case errors.Is(err, syscall.ECONNREFUSED), errors.Is(err, os.ErrNotExist):
		return failure.New(failure.Conflict, "%s: %w on %s", path, errNobodyListens, c.socket)
	}
	return failure.New(failure.Conflict, "%s: %w: %w", path, ErrUnreachable, err)
}

func (c *Client) put(ctx context.Context, path string, body any) error {
	_, err := c.call(ctx, c.patience.Call(), http.MethodPut, path, body)
	return err
}

// Ping is the answer of vmm.ping.
type Ping struct {
	BuildVersion string `json:"build_version"`
	Version      string `json:"version"`
	PID          int    `json:"pid"`
}

// Is returns the version that answered.
func (p *Ping) Is() Version { return Version{Package: p.Version, Build: p.BuildVersion} }

// Ping asks whether the VMM lives and which version it is.
func (c *Client) Ping(ctx context.Context) (*Ping, error) {
	b, err := c.call(ctx, c.patience.Call(), http.MethodGet, "vmm.ping", nil)
	if err != nil {
		return nil, err
	}
	var p Ping
	if err := json.Unmarshal(b, &p); err != nil {
		return nil, failure.New(failure.Incompatible, "vmm.ping: %w", err)
	}
	return &p, nil
}

// Info is the answer of vm.info.
type Info struct {
	Config *Config
	State  string // Created, Running, Shutdown, Paused, BreakPoint
}

// Info asks for the VM's configuration and state.
func (c *Client) Info(ctx context.Context) (*Info, error) {
	b, err := c.call(ctx, c.patience.Call(), http.MethodGet, "vm.info", nil)
	if err != nil {
		return nil, err
	}
	var v struct {
		Config json.RawMessage `json:"config"`
		State  string          `json:"state"`
	}
	if err := json.Unmarshal(b, &v); err != nil {
		return nil, failure.New(failure.Incompatible, "vm.info: %w", err)
	}
	cfg, err := ParseConfig(v.Config)
	return &Info{Config: cfg, State: v.State}, err
}

// Pause stops the virtual CPUs; the answer comes once the devices are quiet too.
func (c *Client) Pause(ctx context.Context) error { return c.put(ctx, "vm.pause", nil) }

// Resume resumes a paused VM.
func (c *Client) Resume(ctx context.Context) error { return c.put(ctx, "vm.resume", nil) }

// Shutdown ends the guest at once.
func (c *Client) Shutdown(ctx context.Context) error { return c.put(ctx, "vm.shutdown", nil) }

// PowerButton asks the guest to power itself off.
func (c *Client) PowerButton(ctx context.Context) error { return c.put(ctx, "vm.power-button", nil) }

// ShutdownVMM ends the VMM process.
func (c *Client) ShutdownVMM(ctx context.Context) error { return c.put(ctx, "vmm.shutdown", nil) }

// Snapshot writes config.json, state.json and memory-ranges into an existing
// folder that has none of them; ram, in bytes, determines the time limit. Only a
// paused VM can be saved. The VMM keeps writing when ctx ends.
func (c *Client) Snapshot(ctx context.Context, dir string, ram uint64) error {
	_, err := c.call(ctx, c.patience.Moving(ram), http.MethodPut, "vm.snapshot", map[string]string{"destination_url": "file://" + dir})
	return err
}

// RestoreConfig is the body of vm.restore.
type RestoreConfig struct {
	SourceURL string `json:"source_url"`
	Resume    bool   `json:"resume,omitempty"`
}

// Restore loads a snapshot folder of ram bytes into a VMM that has no VM yet.
func (c *Client) Restore(ctx context.Context, r RestoreConfig, ram uint64) error {
	_, err := c.call(ctx, c.patience.Moving(ram), http.MethodPut, "vm.restore", r)
	return err
}

// Create gives a configuration to a VMM that has no VM yet.
func (c *Client) Create(ctx context.Context, config *Config) error {
	return c.put(ctx, "vm.create", json.RawMessage(config.Bytes()))
}

// Boot starts the VM that was created; ram, in bytes, may have to be filled
// first.
func (c *Client) Boot(ctx context.Context, ram uint64) error {
	_, err := c.call(ctx, c.patience.Moving(ram), http.MethodPut, "vm.boot", nil)
	return err
}

// ReceiveMigration makes a VMM that has no VM yet wait on socket, which must not
// exist, for a VM to be pushed (see package migration). It returns once the VM is
// there. Until then the VMM answers nothing else, not even a signal, and waits
// for ever: a caller that gives up must kill it.
func (c *Client) ReceiveMigration(ctx context.Context, socket string) error {
	_, err := c.call(ctx, 0, http.MethodPut, "vm.receive-migration", map[string]string{"receiver_url": "unix:" + socket})
	return err
}
