package main

import (
	"fmt"
	"sync"
	"time"

	"github.com/cocoonv2/cocoon/internal/base/screen"
)

// meter draws one line of progress on stderr: bytes, rate and time left on a
// terminal ten times a second, a plain or JSON line every ten seconds elsewhere.
type meter struct {
	s     *screen.Screen
	what  string
	kind  string // tty, plain, json, none
	start time.Time

	mu   sync.Mutex
	last time.Time
}

func (a *app) meter(what string) *meter {
	kind := a.progress
	if kind == "auto" {
		kind = "none"
		if a.errOut.Terminal() {
			kind = "tty"
		}
	}
	return &meter{s: a.errOut, what: what, kind: kind, start: time.Now()}
}

func (m *meter) update(done, total int64) {
	every := 10 * time.Second
	switch m.kind {
	case "none":
		return
	case "tty":
		every = 100 * time.Millisecond
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	now := time.Now()
	if done < total && now.Sub(m.last) < every {
		return
	}
	m.last = now
	rate := float64(done) / max(now.Sub(m.start).Seconds(), 0.001)
	if m.kind == "json" {
		_ = m.s.JSONLine(map[string]any{"what": m.what, "done": done, "total": total, "bytesPerSecond": int64(rate)}) // numbers and a word
		return
	}
	line := fmt.Sprintf("%s %s of %s, %s/s", m.what, size(done), size(total), size(int64(rate)))
	if rate > 0 && done < total {
		line += fmt.Sprintf(", %s left", (time.Duration(float64(total-done)/rate) * time.Second).Round(time.Second))
	}
	if m.kind == "tty" {
		m.s.Status(line)
		return
	}
	m.s.Line("%s", line)
}

// end removes the line.
func (m *meter) end() { m.s.ClearStatus() }
