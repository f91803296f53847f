package registry

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"sync"
	"time"
)

// A silent registry would block the caller for ever, and with it the lease that
// keeps a snapshot from being removed. So every request is watched: in each
// period of the given length at least 1 KiB for each second of it must be
// transferred, or the request is aborted.

// idleError aborts a request that transferred too little.
type idleError struct{ after time.Duration }

func (e *idleError) Error() string {
	return fmt.Sprintf("the registry is idle: next to no bytes for %s", e.after)
}

// watched is a transport whose requests cannot stall. With idle 0 nothing is
// watched.
type watched struct {
	base http.RoundTripper
	idle time.Duration
}

// RoundTrip sends a request; the watch continues while the body of the answer is
// read.
func (t *watched) RoundTrip(req *http.Request) (*http.Response, error) {
	if t.idle <= 0 {
		return t.base.RoundTrip(req)
	}
	ctx, cancel := context.WithCancelCause(req.Context())
	w := &watch{idle: t.idle, left: t.idle, end: func() { cancel(&idleError{t.idle}) }, cause: func() error { return context.Cause(ctx) }}
	sent := req.Clone(ctx)
	if req.Body != nil && req.Body != http.NoBody {
		sent.Body = &sentBody{req.Body, w}
	}
	w.run()
	resp, err := t.base.RoundTrip(sent)
	w.pause()
	if err != nil {
		err = w.explain(err)
		cancel(nil)
		return nil, err
	}
	w.fresh()
	resp.Request, resp.Body = req, &watchedBody{resp.Body, w, cancel}
	return resp, nil
}

// watch counts the time spent waiting for the registry. Other waits, such as for
// the reader's own disk, do not count.
type watch struct {
	idle  time.Duration
	end   func()
	cause func() error

	mu    sync.Mutex
	timer *time.Timer
	since time.Time
	left  time.Duration // of this stretch
	bytes int64         // in this stretch
}

func (w *watch) run() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.since = time.Now()
	if w.timer == nil {
		w.timer = time.AfterFunc(w.left, w.end)
		return
	}
	w.timer.Reset(w.left)
}

func (w *watch) pause() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.timer.Stop()
	w.left = max(0, w.left-time.Since(w.since))
}

// moved begins a new period once enough was transferred in this one.
func (w *watch) moved(n int) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.bytes += int64(n); w.bytes < int64(w.idle.Seconds()*1024) {
		return
	}
	w.begin()
}

// fresh begins a new period: an answer came.
func (w *watch) fresh() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.begin()
}

func (w *watch) begin() {
	w.bytes, w.left, w.since = 0, w.idle, time.Now()
	if w.timer.Stop() { // it runs
		w.timer.Reset(w.left)
	}
}

// explain says why a request was aborted, if the watch did that.
func (w *watch) explain(err error) error {
	if idle, ok := w.cause().(*idleError); ok {
		return idle
	}
	return err
}

// sentBody tells the watch what goes.
type sentBody struct {
	io.ReadCloser
	w *watch
}

func (b *sentBody) Read(p []byte) (int, error) {
	n, err := b.ReadCloser.Read(p)
	b.w.moved(n)
	return n, err
}

// watchedBody is the body of an answer.
type watchedBody struct {
	io.ReadCloser
	w      *watch
	cancel context.CancelCauseFunc
}

func (b *watchedBody) Read(p []byte) (int, error) {
	b.w.run()
	n, err := b.ReadCloser.Read(p)
	b.w.pause()
	b.w.moved(n)
	if err != nil && err != io.EOF {
		err = b.w.explain(err)
	}
	return n, err
}

func (b *watchedBody) Close() error {
	b.w.pause()
	b.cancel(nil)
	return b.ReadCloser.Close()
}
