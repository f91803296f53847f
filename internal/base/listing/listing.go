// Package listing prints the lists of the command line: one set of rows as a
// table, as JSON, through a Go template, or as bare ids.
//
// A row is any struct with JSON tags; the JSON output is exactly those rows, an
// array even when empty. A [Column] has a heading and a cell, and serves --sort
// and --filter too, so a list has one vocabulary.
package listing

import (
	"bytes"
	"runtime"
	"slices"
	"strings"

	"golang.org/x/sync/errgroup"

	"github.com/cocoonv2/cocoon/internal/base/failure"
	"github.com/cocoonv2/cocoon/internal/base/screen"
)

// Column is one column of a table and one key of --filter and --sort. Cells of
// several rows may be computed at the same time.
type Column[T any] struct {
	Name   string // heading in capitals; its lower case is the key
	Cell   func(T) string
	Less   func(a, b T) bool // nil: compare cells
	Values func(T) []string  // what --filter matches; nil: the cell
	Hidden bool              // a key only
}

// Options are the flags that every list shares.
type Options struct {
	Format  string   // table, json or a Go template
	Quiet   bool     // ids only
	NoTrunc bool     // full ids
	Filters []string // key=value; the same key is OR, different keys are AND
	Sort    string   // key, with a leading '-' descending
}

// Write prints rows. id returns the full id of a row for -q.
func Write[T any](s *screen.Screen, o Options, rows []T, id func(T) string, columns []Column[T]) error {
	return WriteEncoded(s, o, rows, id, func(*T) string { return "" }, columns)
}

// WriteEncoded is Write for rows whose JSON may already exist: encoded returns
// it, or "" for a row that has to be encoded.
func WriteEncoded[T any](s *screen.Screen, o Options, rows []T, id func(T) string, encoded func(*T) string, columns []Column[T]) error {
	if err := CheckFormat(o.Format); err != nil {
		return err
	}
	rows, err := filter(rows, o.Filters, columns)
	if err != nil {
		return err
	}
	if err := order(rows, o.Sort, columns); err != nil {
		return err
	}
	switch {
	case o.Quiet:
		t := s.Table() // of one column: a list is many small lines
		for _, r := range rows {
			t.Row(id(r))
		}
		t.End()
		return nil
	case o.Format == "json":
		return lines(s, rows, encoded)
	case o.Format == "" || o.Format == "table":
		return table(s, rows, columns)
	default:
		return templated(s, o.Format, rows)
	}
}

// lines prints rows as one array, a row a line: half the work of indenting,
// and `head`, `grep` and `diff` work on it.
func lines[T any](s *screen.Screen, rows []T, encoded func(*T) string) error {
	if len(rows) == 0 {
		s.EncodedJSON([]byte("[]\n"))
		return nil
	}
	parts, err := inParts(rows, func(rows []T) ([]byte, error) { return encode(rows, encoded) })
	if err != nil {
		return err
	}
	out := append([]byte{'['}, bytes.Join(parts, []byte(separator))...)
	s.EncodedJSON(append(out, "]\n"...))
	return nil
}

const separator = ",\n "

func encode[T any](rows []T, encoded func(*T) string) ([]byte, error) {
	var b bytes.Buffer
	known := 0
	for i := range rows {
		known += len(encoded(&rows[i])) + len(separator)
	}
	b.Grow(known)
	for i := range rows {
		if i > 0 {
			b.WriteString(separator)
		}
		if text := encoded(&rows[i]); text != "" {
			b.WriteString(text)
			continue
		}
		text, err := screen.EncodeJSON(&rows[i])
		if err != nil {
			return nil, err
		}
		b.Write(text)
	}
	return b.Bytes(), nil
}

// inParts has every processor render its part of the rows; the parts come in the
// order of the rows.
func inParts[T any](rows []T, text func(rows []T) ([]byte, error)) ([][]byte, error) {
	parts := make([][]byte, min(runtime.GOMAXPROCS(0), len(rows)))
	var g errgroup.Group
	for i := range parts {
		from, to := len(rows)*i/len(parts), len(rows)*(i+1)/len(parts)
		g.Go(func() (err error) {
			parts[i], err = text(rows[from:to])
			return err
		})
	}
	return parts, g.Wait()
}

func table[T any](s *screen.Screen, rows []T, columns []Column[T]) error {
	shown := slices.DeleteFunc(slices.Clone(columns), func(c Column[T]) bool { return c.Hidden })
	cells := make([]string, len(shown))
	for i, c := range shown {
		cells[i] = c.Name
	}
	t := s.Table()
	t.Row(cells...)
	parts, err := inParts(rows, func(rows []T) (text []byte, _ error) {
		cells := make([]string, len(shown))
		for _, r := range rows {
			for i, c := range shown {
				cells[i] = c.Cell(r)
			}
			text = screen.AppendRow(text, cells)
		}
		return text, nil
	})
	for _, part := range parts {
		t.Add(part)
	}
	t.End()
	return err
}

func filter[T any](rows []T, filters []string, columns []Column[T]) ([]T, error) {
	wanted := map[string][]string{}
	for _, f := range filters {
		k, v, ok := strings.Cut(f, "=")
		if !ok {
			return nil, failure.New(failure.Usage, "--filter %q is not key=value", f)
		}
		if _, err := column(k, columns); err != nil {
			return nil, err
		}
		wanted[k] = append(wanted[k], v)
	}
	if len(wanted) == 0 {
		return rows, nil
	}
	var kept []T
	for _, r := range rows {
		if matches(r, wanted, columns) {
			kept = append(kept, r)
		}
	}
	return kept, nil
}

func matches[T any](r T, wanted map[string][]string, columns []Column[T]) bool {
	for k, values := range wanted {
		c, err := column(k, columns)
		if err != nil {
			return false
		}
		have := []string{}
		if c.Values != nil {
			have = c.Values(r)
		} else {
			have = append(have, c.Cell(r))
		}
		if !slices.ContainsFunc(values, func(v string) bool { return slices.Contains(have, v) }) {
			return false
		}
	}
	return true
}

func order[T any](rows []T, key string, columns []Column[T]) error {
	if key == "" {
		return nil
	}
	name, descending := strings.CutPrefix(key, "-")
	c, err := column(name, columns)
	if err != nil {
		return err
	}
	slices.SortStableFunc(rows, func(a, b T) int {
		if descending {
			a, b = b, a
		}
		if c.Less == nil {
			return strings.Compare(c.Cell(a), c.Cell(b))
		}
		switch {
		case c.Less(a, b):
			return -1
		case c.Less(b, a):
			return 1
		}
		return 0
	})
	return nil
}

func column[T any](key string, columns []Column[T]) (Column[T], error) {
	var keys []string
	for _, c := range columns {
		k := strings.ToLower(c.Name)
		if k == key {
			return c, nil
		}
		keys = append(keys, k)
	}
	return Column[T]{}, failure.New(failure.Usage, "unknown key %q: one of %s", key, strings.Join(keys, ", "))
}
