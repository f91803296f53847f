package registrytest

import (
	"bytes"
	"encoding/json"
	"fmt"
	"strconv"
	"strings"
)

// decode keeps numbers as they are written.
func decode(b []byte) (any, error) {
	dec := json.NewDecoder(bytes.NewReader(b))
	dec.UseNumber()
	var v any
	return v, dec.Decode(&v)
}

// Get is what stands at a path.
func (l *Layout) Get(path string) (any, error) {
	v := any(l.docs)
	for _, step := range strings.Split(path, ".") {
		switch at := v.(type) {
		case map[string]any:
			v = at[step]
		case []any:
			i, err := strconv.Atoi(step)
			if err != nil || i < 0 || i >= len(at) {
				return nil, fmt.Errorf("%s: no place %s", path, step)
			}
			v = at[i]
		default:
			return nil, fmt.Errorf("%s: nothing below %s", path, step)
		}
	}
	return v, nil
}

// Set puts a value, as JSON, at a path whose parent is there. A place behind the
// last of a list makes it longer.
func (l *Layout) Set(path, value string) error {
	v, err := decode([]byte(value))
	if err != nil {
		return fmt.Errorf("%s=%s: %w", path, value, err)
	}
	return l.put(path, v)
}

func (l *Layout) put(path string, v any) error {
	parent, key, ok := cutLast(path)
	if !ok {
		l.docs[path] = v
		return nil
	}
	at, err := l.Get(parent)
	if err != nil {
		return err
	}
	switch at := at.(type) {
	case map[string]any:
		at[key] = v
		return nil
	case []any:
		i, err := strconv.Atoi(key)
		if err == nil && i == len(at) {
			return l.put(parent, append(at, v))
		}
		if err == nil && i >= 0 && i < len(at) {
			at[i] = v
			return nil
		}
	}
	return fmt.Errorf("%s: no such place", path)
}

// Delete takes away what stands at a path.
func (l *Layout) Delete(path string) error {
	parent, key, _ := cutLast(path)
	at, err := l.Get(parent)
	if err != nil {
		return err
	}
	switch at := at.(type) {
	case map[string]any:
		delete(at, key)
		return nil
	case []any:
		if i, err := strconv.Atoi(key); err == nil && i >= 0 && i < len(at) {
			return l.put(parent, append(at[:i:i], at[i+1:]...))
		}
	}
	return fmt.Errorf("%s: no such place", path)
}

// Edit is Set of PATH=JSON, or Delete of -PATH, as scripts write it. PATH=@OTHER
// copies what stands at another path.
func (l *Layout) Edit(text string) error {
	if path, ok := strings.CutPrefix(text, "-"); ok {
		return l.Delete(path)
	}
	path, value, ok := strings.Cut(text, "=")
	if !ok {
		return fmt.Errorf("%q is neither PATH=JSON nor -PATH", text)
	}
	from, ok := strings.CutPrefix(value, "@")
	if !ok {
		return l.Set(path, value)
	}
	v, err := l.Get(from)
	if err != nil {
		return err
	}
	b, err := json.Marshal(v)
	if err != nil {
		return err
	}
	return l.Set(path, string(b))
}

func cutLast(path string) (parent, key string, ok bool) {
	i := strings.LastIndexByte(path, '.')
	if i < 0 {
		return "", path, false
	}
	return path[:i], path[i+1:], true
}
