package screen

import (
	"bytes"
	"io"
	"unicode/utf8"
)

// Text takes our own text: newline and tab stay, everything else unprintable is
// escaped. An incomplete character waits for the next write.
func (s *Screen) Text() io.Writer { return &filter{s: s} }

// Log takes the output of a guest for display on a terminal: like Text, but
// without colours and without the carriage return before a newline, which are in
// every boot log and mean nothing. Close it.
func (s *Screen) Log() io.WriteCloser { return &filter{s: s, log: true} }

// filter escapes a stream.
type filter struct {
	s    *Screen
	log  bool
	held []byte // an unfinished character or sequence
}

// heldLimit limits what waits: a colour sequence is shorter.
const heldLimit = 32

func (f *filter) Write(b []byte) (int, error) {
	text := append(f.held, b...)
	f.held = nil
	out := make([]byte, 0, len(text))
	for len(text) > 0 {
		n := f.ours(text)
		if n < 0 {
			f.held = bytes.Clone(text)
			break
		}
		if n > 0 {
			text = text[n:]
			continue
		}
		if c := text[0]; c == '\n' || c == '\t' {
			out, text = append(out, c), text[1:]
			continue
		}
		r, n := utf8.DecodeRune(text)
		out, text = appendRune(out, r, string(text[:n])), text[n:]
	}
	if len(out) > 0 {
		if _, err := f.s.write(out); err != nil {
			return 0, err
		}
	}
	return len(b), nil
}

// ours returns how many bytes at the start of text to leave out, and -1 if more
// of the stream is needed to tell.
func (f *filter) ours(text []byte) int {
	if !utf8.FullRune(text) {
		return -1
	}
	if !f.log || text[0] != '\r' && text[0] != 0x1b {
		return 0
	}
	n := colour(text)
	if text[0] == '\r' {
		n = returns(text)
	}
	if n < 0 && len(text) > heldLimit {
		return 0
	}
	return n
}

// returns counts carriage returns before a newline.
func returns(text []byte) int {
	n := len(text) - len(bytes.TrimLeft(text, "\r"))
	switch {
	case n == len(text):
		return -1
	case text[n] == '\n':
		return n
	}
	return 0
}

// colour is the length of ESC [ digits… m.
func colour(text []byte) int {
	if len(text) == 1 {
		return -1
	}
	if text[1] != '[' {
		return 0
	}
	for i, c := range text[2:] {
		if c == 'm' {
			return i + 3
		}
		if c != ';' && c != ':' && (c < '0' || c > '9') {
			return 0
		}
	}
	return -1
}

// Close prints what was held.
func (f *filter) Close() error {
	if len(f.held) == 0 {
		return nil
	}
	out := AppendSafe(nil, string(f.held))
	f.held = nil
	_, err := f.s.write(out)
	return err
}
