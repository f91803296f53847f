package registry

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"strconv"
	"strings"
	"sync/atomic"
	"syscall"
	"time"
)

// Registries are behind proxies that limit requests, restart, and cut long
// connections. A request that failed so is retried, after a growing pause or the
// one the registry requests; a permanent refusal is not.

const (
	// mostFailures in a row end it: with the pauses below that is about 20 s of
	// immediate answers. One that took the whole idle time counts as three.
	mostFailures = 6
	idleFailures = 3

	firstPause = 500 * time.Millisecond
	mostPause  = 16 * time.Second
	// mostAsked is the longest Retry-After that is honoured.
	mostAsked = 5 * time.Minute
)

// refusal is an answer that may change later.
type refusal struct {
	method, url string
	status      int
	after       time.Duration // that the registry asks to wait; 0 when it does not
	says        string
}

func (r *refusal) Error() string {
	text := fmt.Sprintf("%s %s: %d %s", r.method, r.url, r.status, http.StatusText(r.status))
	if r.says != "" {
		text += ": " + r.says
	}
	return text
}

// passing recognises answers that may change later.
func passing(status int) bool {
	switch status {
	case http.StatusRequestTimeout, http.StatusTooEarly, http.StatusTooManyRequests,
		http.StatusInternalServerError, http.StatusBadGateway, http.StatusServiceUnavailable, http.StatusGatewayTimeout:
		return true
	}
	return false
}

// refusing is a transport that turns each such answer into an error, with what is
// needed for a retry.
type refusing struct{ base http.RoundTripper }

// RoundTrip sends a request.
func (t refusing) RoundTrip(req *http.Request) (*http.Response, error) {
	resp, err := t.base.RoundTrip(req)
	if err != nil || !passing(resp.StatusCode) {
		return resp, err
	}
	defer resp.Body.Close()
	says, _ := io.ReadAll(io.LimitReader(resp.Body, saysLimit))
	return nil, &refusal{
		method: req.Method, url: req.URL.Redacted(), status: resp.StatusCode,
		after: retryAfter(resp.Header.Get("Retry-After"), time.Now()), says: strings.Join(strings.Fields(string(says)), " "),
	}
}

// saysLimit limits what is quoted of an answer, bytes.
const saysLimit = 256

// retryAfter reads the header of that name: seconds, or a date.
func retryAfter(v string, now time.Time) time.Duration {
	if n, err := strconv.ParseUint(v, 10, 31); err == nil {
		return time.Duration(n) * time.Second
	}
	if at, err := http.ParseTime(v); err == nil {
		return max(0, at.Sub(now))
	}
	return 0
}

// patience is what a transfer has with one registry.
type patience struct {
	answered atomic.Bool // it has, once: that it cannot be reached will pass
	pause    func(context.Context, time.Duration) error
}

// try does something until it succeeds or fails for good.
func (p *patience) try(ctx context.Context, do func() error) error {
	for failures := 0; ; {
		err := do()
		if err == nil {
			p.answered.Store(true)
			return nil
		}
		if err = p.after(ctx, err, &failures); err != nil {
			return err
		}
	}
}

// after waits for as long as is good after a failure; the failure comes back when
// it is no use.
func (p *patience) after(ctx context.Context, err error, failures *int) error {
	if ctx.Err() != nil {
		return err
	}
	n := p.weight(err)
	if n == 0 {
		return err
	}
	*failures += n
	if *failures >= mostFailures {
		return fmt.Errorf("given up after several tries: %w", err)
	}
	wait := pauseOf(*failures)
	if r := (*refusal)(nil); errors.As(err, &r) {
		p.answered.Store(true)
		if r.after > mostAsked {
			return fmt.Errorf("the registry asks to wait for %s: %w", r.after, err)
		}
		wait = max(wait, r.after)
	}
	return p.pause(ctx, wait)
}

// pauseOf doubles with each failure, give or take a third, so that clients
// refused together do not come back together.
func pauseOf(failures int) time.Duration {
	d := min(firstPause<<(failures-1), mostPause)
	return d*2/3 + rand.N(d*2/3)
}

// weight is 0 for what fails for good.
func (p *patience) weight(err error) int {
	var refused *refusal
	var idle *idleError
	var unsafe *unsafeError
	var own *ownError
	switch {
	case errors.As(err, &refused):
		return 1
	case errors.As(err, &idle):
		return idleFailures
	case errors.As(err, &own), errors.As(err, &unsafe), !broken(err, p.answered.Load()):
		return 0
	}
	return 1
}

// broken recognises a connection that broke, or could not be made to a registry
// that had answered before.
func broken(err error, answered bool) bool {
	for _, e := range []error{io.EOF, io.ErrUnexpectedEOF, syscall.ECONNRESET, syscall.EPIPE, syscall.ECONNABORTED, net.ErrClosed} {
		if errors.Is(err, e) {
			return true
		}
	}
	var timeout net.Error
	if errors.As(err, &timeout) && timeout.Timeout() {
		return true
	}
	var op *net.OpError
	return errors.As(err, &op) && answered || strings.Contains(err.Error(), "http2: ")
}

// sleep is the pause of patience.
func sleep(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return context.Cause(ctx)
	case <-t.C:
		return nil
	}
}
