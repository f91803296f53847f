// Package screen writes the output of a command, so that no name, label or
// message from elsewhere can do more to a reader's terminal than be read.
//
// Snapshots, registries, folders and guests choose text that ends up in lists and
// errors. Printed as it is, an escape sequence could clear the screen, a newline
// fake a row, a bidi override reverse a name. So a verb never holds the stream
// itself; it has a [Screen], with these methods:
//
//   - [Screen.Line]: one line, whatever its arguments hold;
//   - [Screen.Table]: rows of cells, one row a call;
//   - [Screen.JSON]: JSON that is safe to display and still the same JSON;
//   - [Screen.Text]: our own text in lines, such as help;
//   - [Screen.Log]: what a guest printed, for a terminal;
//   - [Screen.Status]: the line of progress that is drawn over;
//   - [Screen.Raw]: bytes as they are, for archives and pipes. It is the only way
//     around the escaping, and a test lists the files that may use it.
//
// Words: a text is safe when each rune of it is printable in the sense of
// strconv.IsPrint: no control character, C1 included, no bidi or other format
// character, no line separator, nothing that is not UTF-8. Others are shown
// escaped, as Go writes them: \x1b, \n, \u202e.
//
// Invariants:
//
//  1. Only Raw lets an unsafe rune through, apart from newlines and tabs of our
//     own.
//  2. A failed write is remembered: [Screen.Err] reports it when the command is
//     done, so verbs need not check and cannot forget.
package screen

import (
	"fmt"
	"io"
	"os"
	"sync"

	"golang.org/x/term"
)

// Screen is one of the two streams of a command.
type Screen struct {
	mu       sync.Mutex
	w        io.Writer
	name     string
	err      error
	lost     func(error) // called once with err; may be nil
	drawn    bool        // a line of progress stands there
	terminal bool
}

// New writes to w; name is what errors call it.
func New(w io.Writer, name string) *Screen {
	s := &Screen{w: w, name: name}
	if f, ok := w.(*os.File); ok {
		s.terminal = term.IsTerminal(int(f.Fd()))
	}
	return s
}

// Name is what errors call it.
func (s *Screen) Name() string { return s.name }

// WhenLost calls f with the cause of the first failed write, as it happens, so
// that a command without a reader can end. f must not print.
func (s *Screen) WhenLost(f func(cause error)) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.lost = f
}

// Terminal reports whether the stream is a terminal.
func (s *Screen) Terminal() bool { return s.terminal }

// WriteError is the failure of a stream, which says nothing about the work of
// the command: it has no class and hides its cause from errors.Is.
type WriteError struct{ text string }

func (e *WriteError) Error() string { return e.text }

// Err is the first write that failed; what came after it is lost.
func (s *Screen) Err() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.err
}

// Line prints one line. A newline in it, be it of an argument, is shown escaped.
func (s *Screen) Line(format string, args ...any) {
	_, _ = s.write(append(AppendSafe(nil, fmt.Sprintf(format, args...)), '\n'))
}

// Raw passes bytes on as they are.
func (s *Screen) Raw() io.Writer { return writerFunc(s.write) }

type writerFunc func([]byte) (int, error)

func (f writerFunc) Write(b []byte) (int, error) { return f(b) }

// write is the only place where bytes leave. It removes the line of progress
// first.
func (s *Screen) write(b []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.clear()
	return s.put(b)
}

func (s *Screen) put(b []byte) (int, error) {
	if s.err != nil {
		return 0, s.err
	}
	n, err := s.w.Write(b)
	if err != nil {
		s.err = &WriteError{fmt.Sprintf("write to %s: %v", s.name, cause(err))}
		if s.lost != nil {
			s.lost(err)
		}
		return n, s.err
	}
	return n, nil
}

// cause leaves out "write /dev/stdout", which the name says.
func cause(err error) error {
	if p, ok := err.(*os.PathError); ok {
		return p.Err
	}
	return err
}
