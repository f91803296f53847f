package screen

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"strconv"
	"unicode/utf16"
	"unicode/utf8"
)

// JSON prints v, indented. A nil list is [], a nil map {}.
func (s *Screen) JSON(v any) error { return s.json(v, "  ") }

// JSONLine prints v in one line.
func (s *Screen) JSONLine(v any) error { return s.json(v, "") }

func (s *Screen) json(v any, indent string) error {
	text, err := encode(v, indent)
	if err != nil {
		return err
	}
	s.EncodedJSON(text)
	return nil
}

// EncodeJSON is the text of v without a newline, for EncodedJSON.
func EncodeJSON(v any) ([]byte, error) {
	text, err := encode(v, "")
	return bytes.TrimSuffix(text, []byte("\n")), err
}

func encode(v any, indent string) ([]byte, error) {
	var b bytes.Buffer
	enc := json.NewEncoder(&b)
	enc.SetEscapeHTML(false)
	enc.SetIndent("", indent)
	if err := enc.Encode(whole(v)); err != nil {
		return nil, fmt.Errorf("encode JSON: %w", err)
	}
	return b.Bytes(), nil
}

// EncodedJSON prints text that is already JSON, and escapes what a terminal might
// interpret. encoding/json leaves DEL, C1 and bidi characters as they are; they
// only occur within strings, where \u means the same.
func (s *Screen) EncodedJSON(text []byte) { _, _ = s.write(safeJSON(text)) }

// JSONLog is for a logger that writes a line of JSON at a time.
func (s *Screen) JSONLog() io.Writer {
	return writerFunc(func(b []byte) (int, error) {
		s.EncodedJSON(b)
		return len(b), s.Err()
	})
}

func safeJSON(text []byte) []byte {
	var out []byte // nil as long as nothing had to be escaped
	done := 0
	for i := 0; i < len(text); {
		r, n := rune(text[i]), 1
		if r >= utf8.RuneSelf {
			r, n = utf8.DecodeRune(text[i:])
		}
		if r == '\n' || strconv.IsPrint(r) && (r != utf8.RuneError || n > 1) {
			i += n // newlines are the encoder's own
			continue
		}
		out = append(out, text[done:i]...)
		out = appendUnit(out, r)
		i += n
		done = i
	}
	if out == nil {
		return text
	}
	return append(out, text[done:]...)
}

// appendUnit writes r as JSON escapes, two where it needs a surrogate pair.
func appendUnit(b []byte, r rune) []byte {
	if hi, lo := utf16.EncodeRune(r); hi != utf8.RuneError {
		return fmt.Appendf(b, `\u%04x\u%04x`, hi, lo)
	}
	return fmt.Appendf(b, `\u%04x`, r)
}
