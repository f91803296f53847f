package chsnap

import (
	"bytes"
	"encoding/json"
	"fmt"
	"unicode/utf8"

	"github.com/cocoonv2/cocoon/internal/base/failure"
)

// documentLimit limits config.json and state.json, bytes; configLimit the former,
// which is usually a few kilobytes and in which each three bytes can be a disk.
const (
	documentLimit = 64 << 20
	configLimit   = 4 << 20
)

// member is one key of an object, or one element of an array (key ""), with
// the span of its value in the bytes it was read from.
type member struct {
	key        string
	start, end int
}

// members lists an object's keys or an array's elements in order.
func members(b []byte) ([]member, error) {
	dec := json.NewDecoder(bytes.NewReader(b))
	open, err := dec.Token()
	if err != nil {
		return nil, failure.New(failure.Damaged, "JSON: %w", err)
	}
	if open != json.Delim('{') && open != json.Delim('[') {
		return nil, failure.New(failure.Damaged, "JSON: an object or array is expected")
	}
	var out []member
	seen := map[string]bool{}
	for dec.More() {
		var m member
		if open == json.Delim('{') {
			t, err := dec.Token()
			if err != nil {
				return nil, failure.New(failure.Damaged, "JSON: %w", err)
			}
			m.key = t.(string)
			if seen[m.key] {
				return nil, failure.New(failure.Damaged, "JSON: key %q occurs twice", m.key)
			}
			seen[m.key] = true
		}
		var raw json.RawMessage
		if err := dec.Decode(&raw); err != nil {
			return nil, failure.New(failure.Damaged, "JSON: %w", err)
		}
		m.end = int(dec.InputOffset())
		m.start = m.end - len(raw)
		out = append(out, m)
	}
	return out, nil
}

// get returns the bytes of a key's value, nil if the key is missing.
func get(b []byte, key string) ([]byte, error) {
	all, err := members(b)
	if err != nil {
		return nil, err
	}
	for _, m := range all {
		if m.key == key {
			return b[m.start:m.end], nil
		}
	}
	return nil, nil
}

func splice(b []byte, start, end int, value []byte) []byte {
	out := make([]byte, 0, len(b)-(end-start)+len(value))
	out = append(out, b[:start]...)
	out = append(out, value...)
	return append(out, b[end:]...)
}

// set replaces a key's value, or appends the key if it is missing; every other
// byte stays.
func set(b []byte, key string, value any) ([]byte, error) {
	if !utf8.ValidString(key) {
		return nil, failure.New(failure.Usage, "JSON: key %q is not UTF-8", key)
	}
	v, err := encode(value)
	if err != nil {
		return nil, err
	}
	all, err := members(b)
	if err != nil {
		return nil, err
	}
	for _, m := range all {
		if m.key == key {
			return splice(b, m.start, m.end, v), nil
		}
	}
	name, err := encode(key)
	if err != nil {
		return nil, err
	}
	entry := append(append(name, ':'), v...)
	if len(all) > 0 {
		end := all[len(all)-1].end
		return splice(b, end, end, append([]byte{','}, entry...)), nil
	}
	at := bytes.IndexByte(b, '{') + 1
	return splice(b, at, at, entry), nil
}

// drop removes a key with its comma; a missing key is no error.
func drop(b []byte, key string) ([]byte, error) {
	all, err := members(b)
	if err != nil {
		return nil, err
	}
	for i, m := range all {
		if m.key != key {
			continue
		}
		switch {
		case i > 0:
			return splice(b, all[i-1].end, m.end, nil), nil
		case len(all) > 1:
			open := bytes.IndexByte(b, '{') + 1
			next := bytes.IndexByte(b[m.end:], ',') + m.end + 1
			return splice(b, open, next, nil), nil
		default:
			return splice(b, bytes.IndexByte(b, '{')+1, m.end, nil), nil
		}
	}
	return b, nil
}

// edit replaces a key's value by the result of change; a missing or null key is
// left alone.
func edit(b []byte, key string, change func([]byte) ([]byte, error)) ([]byte, error) {
	v, err := get(b, key)
	if err != nil || v == nil || bytes.Equal(v, []byte("null")) {
		return b, err
	}
	changed, err := change(v)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", key, err)
	}
	return set(b, key, json.RawMessage(changed))
}

// editEach changes every element of an array.
func editEach(b []byte, change func(i int, element []byte) ([]byte, error)) ([]byte, error) {
	all, err := members(b)
	if err != nil {
		return nil, err
	}
	for i := len(all) - 1; i >= 0; i-- { // from the end: earlier spans stay true
		m := all[i]
		v, err := change(i, b[m.start:m.end])
		if err != nil {
			return nil, err
		}
		b = splice(b, m.start, m.end, v)
	}
	return b, nil
}

// encode is json.Marshal without HTML escapes; raw bytes pass unchanged.
func encode(v any) ([]byte, error) {
	if raw, ok := v.(json.RawMessage); ok {
		return raw, nil
	}
	var b bytes.Buffer
	enc := json.NewEncoder(&b)
	enc.SetEscapeHTML(false)
	if err := enc.Encode(v); err != nil {
		return nil, err
	}
	return bytes.TrimRight(b.Bytes(), "\n"), nil
}
