package chsnaptest

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
)

// client talks to one API socket. Every request has its own connection, so that
// nothing is shared with a request that was given up.
type client struct {
	socket string
	http   *http.Client
}

func newClient(socket string) *client {
	dial := func(ctx context.Context, _, _ string) (net.Conn, error) {
		return (&net.Dialer{}).DialContext(ctx, "unix", socket)
	}
	return &client{socket: socket, http: &http.Client{Transport: &http.Transport{DialContext: dial, DisableKeepAlives: true}}}
}

// do sends one request; body is nil for none, []byte as it stands, else JSON. The answer's status and body come
// back whatever they are, err only says that there was no answer.
func (c *client) do(ctx context.Context, method, call string, body any) (status int, answer string, err error) {
	var payload io.Reader
	if body != nil {
		b, ok := body.([]byte)
		if !ok {
			if b, err = json.Marshal(body); err != nil {
				return 0, "", fmt.Errorf("encoding the body of %s: %w", call, err)
			}
		}
		payload = bytes.NewReader(b)
	}
	request, err := http.NewRequestWithContext(ctx, method, "http://localhost/api/v1/"+call, payload)
	if err != nil {
		return 0, "", fmt.Errorf("making request %s: %w", call, err)
	}
	response, err := c.http.Do(request)
	if err != nil {
		return 0, "", fmt.Errorf("calling %s: %w", call, err)
	}
	defer response.Body.Close()
	b, err := io.ReadAll(response.Body)
	if err != nil {
		return 0, "", fmt.Errorf("reading the answer of %s: %w", call, err)
	}
	return response.StatusCode, string(b), nil
}

// put is do for calls that must succeed.
func (c *client) put(ctx context.Context, call string, body any) error {
	status, answer, err := c.do(ctx, http.MethodPut, call, body)
	if err == nil && status >= 300 {
		err = fmt.Errorf("%s answered %d %s", call, status, answer)
	}
	return err
}

// vmInfo is the part of vm.info that the suite looks at.
type vmInfo struct {
	State  string                     `json:"state"`
	Memory uint64                     `json:"memory_actual_size"`
	Config map[string]json.RawMessage `json:"config"`
}

func (c *client) info(ctx context.Context) (vmInfo, error) {
	i := vmInfo{}
	return i, c.get(ctx, "vm.info", &i)
}

type pingAnswer struct {
	Version string `json:"version"`
	PID     int    `json:"pid"`
}

func (c *client) ping(ctx context.Context) (pingAnswer, error) {
	p := pingAnswer{}
	return p, c.get(ctx, "vmm.ping", &p)
}

func (c *client) get(ctx context.Context, call string, into any) error {
	status, answer, err := c.do(ctx, http.MethodGet, call, nil)
	if err != nil {
		return err
	}
	if status != http.StatusOK {
		return fmt.Errorf("%s answered %d %s", call, status, answer)
	}
	if err := json.Unmarshal([]byte(answer), into); err != nil {
		return fmt.Errorf("decoding the answer of %s: %w", call, err)
	}
	return nil
}

// abandon sends a request with a body and closes the connection, unanswered, once
// begun returns.
func (c *client) abandon(ctx context.Context, call string, body any, begun func() error) error {
	b, err := json.Marshal(body)
	if err != nil {
		return fmt.Errorf("encoding the body of %s: %w", call, err)
	}
	conn, err := (&net.Dialer{}).DialContext(ctx, "unix", c.socket)
	if err != nil {
		return fmt.Errorf("calling %s: %w", call, err)
	}
	defer conn.Close()
	head := strings.Join([]string{
		"PUT /api/v1/" + call + " HTTP/1.1", "Host: localhost", "Content-Type: application/json",
		fmt.Sprintf("Content-Length: %d", len(b)), "", "",
	}, "\r\n")
	if _, err := io.WriteString(conn, head+string(b)); err != nil {
		return fmt.Errorf("sending %s: %w", call, err)
	}
	return begun()
}

func fileURL(dir string) map[string]string {
	return map[string]string{"destination_url": "file://" + dir}
}
