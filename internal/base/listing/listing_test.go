package listing

import (
	"bytes"
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/cocoonv2/cocoon/internal/base/failure"
	"github.com/cocoonv2/cocoon/internal/base/screen"
)

type row struct {
	ID    string `json:"id"`
	Bytes int    `json:"bytes"`
	tags  []string
}

func rows() []row {
	return []row{{"b2", 20, []string{"x", "y"}}, {"a1", 100, []string{"y"}}, {"c3", 3, nil}}
}

func columns() []Column[row] {
	return []Column[row]{
		{Name: "ID", Cell: func(r row) string { return r.ID }},
		{Name: "SIZE", Cell: func(r row) string { return "s" }, Less: func(a, b row) bool { return a.Bytes < b.Bytes }},
		{Name: "TAG", Hidden: true, Cell: func(row) string { return "" }, Values: func(r row) []string { return r.tags }},
	}
}

func TestWrite(t *testing.T) {
	for name, tc := range map[string]struct {
		o    Options
		want string
	}{
		"table":            {Options{}, "ID  SIZE\nb2  s\na1  s\nc3  s\n"},
		"quiet sorted":     {Options{Quiet: true, Sort: "size"}, "c3\nb2\na1\n"},
		"quiet descending": {Options{Quiet: true, Sort: "-id"}, "c3\nb2\na1\n"},
		"same key is or":   {Options{Quiet: true, Filters: []string{"id=b2", "id=c3"}}, "b2\nc3\n"},
		"keys are and":     {Options{Quiet: true, Filters: []string{"id=b2", "id=a1", "tag=x"}}, "b2\n"},
		"template":         {Options{Format: "{{.ID}}:{{.Bytes}}", Sort: "id"}, "a1:100\nb2:20\nc3:3\n"},
		"json, none":       {Options{Format: "json", Filters: []string{"id=no"}}, "[]\n"},
	} {
		t.Run(name, func(t *testing.T) {
			var b bytes.Buffer
			if err := Write(screen.New(&b, "stdout"), tc.o, rows(), func(r row) string { return r.ID }, columns()); err != nil {
				t.Fatal(err)
			}
			if b.String() != tc.want {
				t.Errorf("got\n%s\nwant\n%s", b.String(), tc.want)
			}
		})
	}
}

// TestRowsKeepTheirOrder: rows are made into text on every processor, and some
// are text already.
func TestRowsKeepTheirOrder(t *testing.T) {
	for n := range 40 {
		var many []row
		var asJSON []string
		table := "ID   SIZE\n"
		for i := range n {
			r := row{ID: fmt.Sprint(100 + i), Bytes: i}
			many = append(many, r)
			asJSON = append(asJSON, fmt.Sprintf(`{"id":"%s","bytes":%d}`, r.ID, i))
			table += r.ID + "  s\n"
		}
		for format, want := range map[string]string{"json": "[" + strings.Join(asJSON, ",\n ") + "]\n", "table": table} {
			known := func(r *row) string {
				if r.Bytes%3 == 0 {
					return fmt.Sprintf(`{"id":"%s","bytes":%d}`, r.ID, r.Bytes)
				}
				return ""
			}
			var b bytes.Buffer
			if err := WriteEncoded(screen.New(&b, "stdout"), Options{Format: format}, many, func(r row) string { return r.ID }, known, columns()); err != nil {
				t.Fatal(err)
			}
			if n > 0 && b.String() != want {
				t.Errorf("got\n%s\nwant\n%s", b.String(), want)
			}
		}
	}
}

func TestBadFlagsAreUsageErrors(t *testing.T) {
	for _, o := range []Options{
		{Sort: "nonsense"},
		{Filters: []string{"id"}},
		{Filters: []string{"nonsense=1"}},
		{Format: "{{.Nope}}"},
		{Format: "{{"},
		{Format: "jsn"},
		{Format: "yaml"},
		{Format: "table ID"},
	} {
		err := Write(screen.New(&bytes.Buffer{}, "stdout"), o, rows(), func(r row) string { return r.ID }, columns())
		if !errors.Is(err, failure.Usage) {
			t.Errorf("%+v: %v is not a usage error", o, err)
		}
	}
}
