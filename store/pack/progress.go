package pack

import "sync"

// Progress calls a callback from one goroutine at a time.
type Progress struct {
	mu      sync.Mutex
	OnBytes func(n int64)
}

// Add tells of n bytes more.
func (p *Progress) Add(n int64) {
	if p.OnBytes == nil || n == 0 {
		return
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.OnBytes(n)
}
