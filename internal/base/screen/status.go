package screen

import "fmt"

// statusWidth is the width of a line of progress, in columns.
const statusWidth = 70

// Status draws a line over the previous one, on a terminal. Whatever is printed
// next replaces it.
func (s *Screen) Status(line string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	_, _ = s.put(fmt.Appendf(nil, "\r%-*s", statusWidth, Safe(line)))
	s.drawn = true
}

// ClearStatus removes the line.
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
