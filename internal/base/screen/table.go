package screen

import (
	"bytes"
	"text/tabwriter"
)

// Table aligns cells in columns. Nothing is printed before End.
type Table struct {
	s    *Screen
	rows []byte
}

// Table begins one.
func (s *Screen) Table() *Table { return &Table{s: s} }

// Row adds one row. A newline or tab in a cell is shown escaped.
func (t *Table) Row(cells ...string) { t.rows = AppendRow(t.rows, cells) }

// AppendRow appends a row in the form that Add takes, so that several rows can be
// made in parallel. Empty cells at its end print nothing.
func AppendRow(b []byte, cells []string) []byte {
	start := len(b)
	for i, c := range cells {
		if i > 0 {
			b = append(b, '\t')
		}
		b = AppendSafe(b, c)
	}
	b = append(b[:start], bytes.TrimRight(b[start:], " \t")...)
	return append(b, '\n')
}

// Add takes rows made by AppendRow, or lines of our own with tabs between cells.
func (t *Table) Add(rows []byte) { t.rows = append(t.rows, rows...) }

// End prints the table.
func (t *Table) End() {
	var out bytes.Buffer
	tw := tabwriter.NewWriter(&out, 0, 8, 2, ' ', 0)
	_, _ = tw.Write(t.rows) // into memory: neither can fail
	_ = tw.Flush()
	_, _ = t.s.Text().Write(out.Bytes())
}
