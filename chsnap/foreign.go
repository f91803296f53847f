package chsnap

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"strings"
	"unicode"

	"github.com/cocoonv2/cocoon/internal/base/failure"
)

// exactKeys refuses any object in b with a key that is not spelt exactly as the
// VMM spells it, in lower case. Go matches keys to fields whatever their case,
// the VMM does not: with "SRC" after "src", this program would check the former
// and the VMM open the latter.
func exactKeys(b []byte) error {
	dec := json.NewDecoder(bytes.NewReader(b))
	var objects []bool // what is open, outermost first: an object, or an array
	isKey := false     // what the next token is
	for {
		t, err := dec.Token()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return failure.New(failure.Damaged, "JSON: %w", err)
		}
		switch t := t.(type) {
		case json.Delim:
			if t == '{' || t == '[' {
				objects = append(objects, t == '{')
			} else {
				objects = objects[:len(objects)-1]
			}
		case string:
			if isKey && strings.ContainsFunc(t, func(r rune) bool { return unicode.IsUpper(r) || r > unicode.MaxASCII }) {
				return failure.New(failure.Incompatible, "config: %.40q is not how the VMM spells a key, and may hide another", t)
			}
			if isKey {
				isKey = false
				continue
			}
		}
		isKey = len(objects) > 0 && objects[len(objects)-1]
	}
}
