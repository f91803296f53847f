package listing

import (
	"bytes"
	"regexp"
	"strconv"
	"strings"
	"testing"

	"github.com/cocoonv2/cocoon/internal/base/screen"
)

const evil = "a\x1b[2J\nb\u202e"

type named struct {
	Name   string
	Labels map[string]string
	List   []string
	Of     struct{ Name string }
	Ptr    *string
	Bytes  int64
	Share  float64
}

func aNamed() named {
	text := evil
	n := named{Name: evil, Labels: map[string]string{evil: evil}, List: []string{evil, "x"}, Ptr: &text, Bytes: 5, Share: 0.25}
	n.Of.Name = evil
	return n
}

const shown = `a\x1b[2J\nb\u202e`

func TestTemplatesEscapeWhatTheyPrintAndKeepTheirOwnText(t *testing.T) {
	for format, want := range map[string]string{
		`{{.Name}}`:                shown,
		`{{.Ptr}} {{.List}}`:       shown + " [" + shown + " x]",
		`{{.Name}}\t{{.Bytes}}\n-`: shown + "\t5\n-",
		`{{"\n"}}{{.Name}}`:        "\n" + shown,
		`{{println .Name}}`:        shown + "\n",
		`{{.Name | println}}`:      shown + "\n",
		`{{printf "%s\n%5.1f|%3d" .Name .Share .Bytes}}`: shown + "\n  0.2|  5",
		`{{printf .Name}}`:                                         shown,
		`{{.Name | printf}}`:                                       shown,
		`{{printf (print .Name)}}`:                                 shown,
		`{{range $k, $v := .Labels}}{{$k}}={{$v}}{{end}}`:          shown + "=" + shown,
		`{{with .Of}}{{.Name}}{{end}}`:                             shown,
		`{{if .Name}}{{.Name}}{{else}}no{{end}}`:                   shown,
		`{{define "x"}}{{.}}{{end}}{{template "x" .Name}}`:         shown,
		`{{block "y" .Name}}{{.}}{{end}}`:                          shown,
		`{{$x := .Name}}{{$x}}`:                                    shown,
		`{{join .List ","}} {{upper "x"}}{{lower "Y"}}`:            shown + ",x Xy",
		`{{index (split "p,q" ",") 1}}`:                            "q",
		`{{json .Name}}`:                                           `"a\u001b[2J\nb\u202e"`,
		`{{html .Name}}{{slice .Name 0 3}}`:                        shown + `a\x1b[`,
		"\x1b{{.Bytes}}":                                           `\x1b5`,
		"table {{.Name}}\\t{{.Of.Name}}\t{{printf \"%d\" .Bytes}}": "NAME               OF NAME            BYTES\n" + shown + "  " + shown + "  5",
	} {
		var b bytes.Buffer
		if err := templated(screen.New(&b, "stdout"), format, []named{aNamed()}); err != nil {
			t.Errorf("%s: %v", format, err)
		}
		if b.String() != want+"\n" {
			t.Errorf("%s: got %q, want %q", format, b.String(), want+"\n")
		}
	}
}

func TestATemplateIsToldWhatARowHas(t *testing.T) {
	err := templated(screen.New(&bytes.Buffer{}, "stdout"), "{{.Nome}}", []named{aNamed()})
	if err == nil || !strings.Contains(err.Error(), "a row has .Name .Labels .List .Of .Ptr .Bytes .Share") {
		t.Errorf("got %v", err)
	}
}

var long = regexp.MustCompile(`(?i)range.*range|[0-9_x]{3}|e[0-9]`)

// FuzzTemplate: no template lets through what a row holds, and none panics.
func FuzzTemplate(f *testing.F) {
	for _, s := range []string{
		"{{.Name}}", "table {{.Name}}\\t{{range .List}}{{.}}{{end}}", `{{printf "%s\n%v" .Name .}}`, "{{.Name | printf | println}}",
		"{{range $i, $x := .List}}{{break}}{{end}}", `{{define "x"}}{{.}}{{end}}{{template "x" .}}`, "{{with $y := .Of}}{{$y.Name | js}}{{end}}", "{{json .}}{{html .}}",
	} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, format string) {
		var b bytes.Buffer
		if CheckFormat(format) != nil || !strings.Contains(format, "{{") || strings.Contains(format, "range") && long.MatchString(format) {
			return // a loop over a large number takes the operator's own time
		}
		_ = templated(screen.New(&b, "stdout"), format, []named{aNamed()})
		for _, r := range b.String() {
			if r != '\n' && r != '\t' && !strconv.IsPrint(r) {
				t.Fatalf("%q prints %q", format, b.String())
			}
		}
	})
}
