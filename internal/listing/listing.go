// Package listing prints the lists of the command line: one set of rows as a
// table, as JSON, through a Go template, or as bare ids.
//
// A row is any struct with JSON tags; the JSON output is exactly those rows,
// an array even when empty. A [Column] gives a heading and a cell, and serves
// --sort and --filter too, so a list has one vocabulary.
package listing

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"runtime"
	"slices"
	"strings"
	"text/tabwriter"
	"text/template"

	"golang.org/x/sync/errgroup"

	"github.com/cocoonv2/cocoon/internal/failure"
)

// Column is one column of a table and one key of --filter and --sort. Cells of
// several rows are asked for at the same time.
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

// Write prints rows. id gives the full id of a row for -q.
func Write[T any](w io.Writer, o Options, rows []T, id func(T) string, columns []Column[T]) error {
	return WriteEncoded(w, o, rows, id, func(*T) string { return "" }, columns)
}

// WriteEncoded is Write for rows whose JSON may be known already: encoded gives
// it, or "" for a row that has to be encoded.
func WriteEncoded[T any](w io.Writer, o Options, rows []T, id func(T) string, encoded func(*T) string, columns []Column[T]) error {
	rows, err := filter(rows, o.Filters, columns)
	if err != nil {
		return err
	}
	if err := order(rows, o.Sort, columns); err != nil {
		return err
	}
	out := bufio.NewWriter(w) // a list is many small writes
	err = write(out, o, rows, id, encoded, columns)
	return errors.Join(err, out.Flush())
}

func write[T any](w io.Writer, o Options, rows []T, id func(T) string, encoded func(*T) string, columns []Column[T]) error {
	switch {
	case o.Quiet:
		for _, r := range rows {
			fmt.Fprintln(w, id(r))
		}
		return nil
	case o.Format == "json":
		return lines(w, rows, encoded)
	case o.Format == "" || o.Format == "table":
		return table(w, rows, columns)
	default:
		return templated(w, o.Format, rows)
	}
}

// JSON prints rows as one indented array; nil is [].
func JSON[T any](w io.Writer, rows []T) error {
	if rows == nil {
		rows = []T{}
	}
	enc := json.NewEncoder(w)
	enc.SetEscapeHTML(false)
	enc.SetIndent("", "  ")
	return enc.Encode(rows)
}

// lines prints rows as one array, a row a line: half the work of indenting,
// and `head`, `grep` and `diff` work on it.
func lines[T any](w io.Writer, rows []T, encoded func(*T) string) error {
	if len(rows) == 0 {
		_, err := fmt.Fprintln(w, "[]")
		return err
	}
	parts, err := inParts(rows, func(b *bytes.Buffer, rows []T) error { return encode(b, rows, encoded) })
	if err != nil {
		return err
	}
	before := "["
	for _, part := range parts {
		if _, err := fmt.Fprintf(w, "%s%s", before, part); err != nil {
			return err
		}
		before = separator
	}
	_, err = fmt.Fprintln(w, "]")
	return err
}

const separator = ",\n "

func encode[T any](b *bytes.Buffer, rows []T, encoded func(*T) string) error {
	known := 0
	for i := range rows {
		known += len(encoded(&rows[i])) + len(separator)
	}
	b.Grow(known)
	enc := json.NewEncoder(b)
	enc.SetEscapeHTML(false)
	for i := range rows {
		if i > 0 {
			b.WriteString(separator)
		}
		if text := encoded(&rows[i]); text != "" {
			b.WriteString(text)
			continue
		}
		if err := enc.Encode(&rows[i]); err != nil {
			return err
		}
		b.Truncate(b.Len() - 1) // the line's end
	}
	return nil
}

// inParts has every processor turn its part of the rows into text; the parts come
// in the order of the rows.
func inParts[T any](rows []T, text func(b *bytes.Buffer, rows []T) error) ([][]byte, error) {
	parts := make([][]byte, min(runtime.GOMAXPROCS(0), len(rows)))
	var g errgroup.Group
	for i := range parts {
		from, to := len(rows)*i/len(parts), len(rows)*(i+1)/len(parts)
		g.Go(func() error {
			var b bytes.Buffer
			err := text(&b, rows[from:to])
			parts[i] = b.Bytes()
			return err
		})
	}
	return parts, g.Wait()
}

func table[T any](w io.Writer, rows []T, columns []Column[T]) error {
	shown := slices.DeleteFunc(slices.Clone(columns), func(c Column[T]) bool { return c.Hidden })
	line := func(b *bytes.Buffer, cell func(Column[T]) string) {
		start := b.Len()
		for i, c := range shown {
			if i > 0 {
				b.WriteByte('\t')
			}
			b.WriteString(cell(c))
		}
		b.Truncate(start + len(bytes.TrimRight(b.Bytes()[start:], " ")))
		b.WriteByte('\n')
	}
	var heading bytes.Buffer
	line(&heading, func(c Column[T]) string { return c.Name })
	parts, err := inParts(rows, func(b *bytes.Buffer, rows []T) error {
		for i := range rows {
			line(b, func(c Column[T]) string { return c.Cell(rows[i]) })
		}
		return nil
	})
	if err != nil {
		return err
	}
	tw := tabwriter.NewWriter(w, 0, 8, 2, ' ', 0)
	for _, part := range append([][]byte{heading.Bytes()}, parts...) {
		if _, err := tw.Write(part); err != nil {
			return err
		}
	}
	return tw.Flush()
}

func templated[T any](w io.Writer, text string, rows []T) error {
	funcs := template.FuncMap{"json": func(v any) (string, error) { b, err := json.Marshal(v); return string(b), err }}
	t, err := template.New("format").Funcs(funcs).Option("missingkey=error").Parse(text)
	if err != nil {
		return failure.New(failure.Usage, "--format: %w", err)
	}
	for _, r := range rows {
		if err := t.Execute(w, r); err != nil {
			return failure.New(failure.Usage, "--format: %w", err)
		}
		fmt.Fprintln(w)
	}
	return nil
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
