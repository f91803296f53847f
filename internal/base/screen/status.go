package screen

import "fmt"

// statusWidth is what a line of progress takes, in columns.
const statusWidth = 70

// Status draws a line over the one before, on a terminal. What is printed next
// takes its place.
func (s *Screen) Status(line string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	_, _ = s.put(fmt.Appendf(nil, "\r%-*s", statusWidth, Safe(line)))
	s.drawn = true
}

// ClearStatus takes the line away.
func (s *Screen) ClearStatus() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.clear()
}

func (s *Screen) clear() {
	if !s.drawn {
		return
	}
	s.drawn = false
	_, _ = s.put(fmt.Appendf(nil, "\r%-*s\r", statusWidth, ""))
}
