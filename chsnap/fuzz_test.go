package chsnap

import (
	"bytes"
	"context"
	"encoding/json"
	"io"
	"net/http"
	"strings"
	"testing"

	"github.com/cocoonv2/cocoon/internal/base/patience"
)

// FuzzDocuments: the two documents of a snapshot together, as a restore turns
// them into what a VMM takes.
func FuzzDocuments(f *testing.F) {
	for _, dir := range folders(f) {
		_, _, cb, sb := documents(f, dir)
		f.Add(cb, sb)
	}
	f.Add([]byte(`{}`), stateWith(`[]`))
	f.Add([]byte(`{"memory":{"size":8192}}`), stateWith(`[{"gpa":4096,"length":4096},{"gpa":0,"length":4096}]`))
	f.Fuzz(func(t *testing.T, cb, sb []byte) {
		c, err := ParseConfig(cb)
		if err != nil {
			return
		}
		s, err := ParseState(sb)
		if err != nil {
			return
		}
		if b, err := MigrationConfig(c, s); err == nil && !json.Valid(b) {
			t.Errorf("what a VMM would receive is no JSON: %s", b)
		}
		if MapMemory(c, s, "/own/ram") != nil {
			return
		}
		if !json.Valid(c.Bytes()) || !json.Valid(s.Bytes()) || len(s.MemoryRanges()) != 0 || !bytes.Contains(c.Bytes(), []byte("/own/ram")) {
			t.Fatalf("mapped: %s %s", c.Bytes(), s.Bytes())
		}
		if err := Normalise(c, s); err != nil {
			t.Fatalf("what was mapped cannot be saved again: %v", err)
		}
		if why := c.MapRefusal(); why != "" {
			t.Errorf("what was mapped cannot be mapped again: %s", why)
		}
	})
}

// answering is a transport on which every call gets the same answer.
type answering struct {
	status int
	body   []byte
}

func (a answering) RoundTrip(r *http.Request) (*http.Response, error) {
	return &http.Response{StatusCode: a.status, Body: io.NopCloser(bytes.NewReader(a.body)), Request: r}, nil
}

// FuzzAnswers: what a process says that listens where a VMM should. An error is
// one line, and what is no error was understood.
func FuzzAnswers(f *testing.F) {
	f.Add(uint16(200), []byte(`{"build_version":"v53.0","version":"53.0.0","pid":7}`))
	f.Add(uint16(200), []byte(`{"config":{"cpus":{"boot_vcpus":1}},"state":"Running"}`))
	f.Add(uint16(500), []byte(`["outer","inner\n\nStack backtrace:\n  0: x"]`))
	f.Add(uint16(404), []byte("plain\ntext"))
	f.Fuzz(func(t *testing.T, status uint16, body []byte) {
		c := &Client{socket: "/s", patience: patience.Default, http: &http.Client{Transport: answering{200 + int(status%400), body}}}
		ctx := context.Background()
		info, err := c.Info(ctx)
		if err == nil && !json.Valid(info.Config.Bytes()) {
			t.Errorf("a configuration that is no JSON: %s", info.Config.Bytes())
		}
		_, perr := c.Ping(ctx)
		for _, err := range []error{err, perr, c.Resume(ctx)} {
			if err != nil && strings.ContainsRune(err.Error(), '\n') {
				t.Errorf("an error of several lines: %q", err)
			}
		}
	})
}
