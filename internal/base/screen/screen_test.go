package screen

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"unicode/utf8"

	"github.com/google/go-cmp/cmp"
)

const hostile = "web\x1b[2J\x1b]0;T\x07\n\rrow\t\u202eevil\u009b31m\x7f\xff\u2028é"

func TestEveryWayEscapesWhatItDidNotMakeItself(t *testing.T) {
	for name, tc := range map[string]struct {
		print func(*Screen)
		want  string
	}{
		"line": {
			func(s *Screen) { s.Line("name %s, %d", hostile, 7) },
			`name web\x1b[2J\x1b]0;T\a\n\rrow\t\u202eevil\u009b31m\x7f\xff\u2028é, 7` + "\n",
		},
		"row": {
			func(s *Screen) {
				tab := s.Table()
				tab.Row("A", "B", "")
				tab.Row("x\ny", "\tz", " ")
				tab.End()
			},
			"A     B\n" + `x\ny  \tz` + "\n",
		},
		"text keeps its lines": {
			func(s *Screen) { io.WriteString(s.Text(), "a\tb\n"+hostile) },
			"a\tb\n" + `web\x1b[2J\x1b]0;T\a` + "\n" + `\rrow` + "\t" + `\u202eevil\u009b31m\x7f\xff\u2028é`,
		},
		"json": {
			func(s *Screen) { s.JSONLine("\u009b\x7f\x1b\u202e\U000e0001é\u2028") },
			`"\u009b\u007f\u001b\u202e\udb40\udc01é\u2028"` + "\n",
		},
		"status": {
			func(s *Screen) { s.Status("a\nb"); s.Line("c") },
			"\r" + `a\nb` + strings.Repeat(" ", 66) + "\r" + strings.Repeat(" ", 70) + "\rc\n",
		},
		"raw": {func(s *Screen) { io.WriteString(s.Raw(), hostile) }, hostile},
	} {
		t.Run(name, func(t *testing.T) {
			var b bytes.Buffer
			tc.print(New(&b, "stdout"))
			if d := cmp.Diff(tc.want, b.String()); d != "" {
				t.Error(d)
			}
		})
	}
}

func TestALogIsReadableHoweverItArrives(t *testing.T) {
	const in = "\x1b[0;32m  OK  \x1b[0m é\r\n\x1b]0;T\x07x\rover\r\r\n\x1b[2Jend\x1b["
	const want = "  OK   é\n" + `\x1b]0;T\ax\rover` + "\n" + `\x1b[2Jend\x1b[`
	for piece := 1; piece <= len(in); piece++ {
		var b bytes.Buffer
		w := New(&b, "stdout").Log()
		for rest := in; rest != ""; {
			n := min(piece, len(rest))
			if m, err := io.WriteString(w, rest[:n]); m != n || err != nil {
				t.Fatal(m, err)
			}
			rest = rest[n:]
		}
		if err := w.Close(); err != nil {
			t.Fatal(err)
		}
		if b.String() != want {
			t.Fatalf("in pieces of %d: got %q, want %q", piece, b.String(), want)
		}
	}
}

func TestNoListAndNoMapIsNull(t *testing.T) {
	type inner struct{ Names []string }
	type outer struct {
		List   []inner           `json:"list"`
		Map    map[string]string `json:"map"`
		In     *inner            `json:"in"`
		Any    any               `json:"any"`
		Deep   map[string][]int  `json:"deep"`
		Empty  []string          `json:"empty,omitempty"`
		Nobody *inner            `json:"nobody"`
	}
	given := outer{In: &inner{}, Any: []inner{{}}, Deep: map[string][]int{"x": nil}}
	var b bytes.Buffer
	if err := New(&b, "stdout").JSONLine(&given); err != nil {
		t.Fatal(err)
	}
	const want = `{"list":[],"map":{},"in":{"Names":[]},"any":[{"Names":[]}],"deep":{"x":[]},"nobody":null}` + "\n"
	if b.String() != want {
		t.Errorf("got  %swant %s", b.String(), want)
	}
	if given.List != nil || given.In.Names != nil {
		t.Error("what was given was changed")
	}
}

type fullDisk struct{ writes int }

func (f *fullDisk) Write([]byte) (int, error) { f.writes++; return 0, syscall.ENOSPC }

func TestAWriteThatFailedIsRememberedAndHasNoClass(t *testing.T) {
	var full fullDisk
	s := New(&full, "stdout")
	s.Line("one")
	s.Line("two")
	if err := s.JSON([]int{1}); err != nil {
		t.Errorf("a failing stream is not the encoder's fault: %v", err)
	}
	err := s.Err()
	if err == nil || errors.Is(err, syscall.ENOSPC) || err.Error() != "write to stdout: no space left on device" {
		t.Errorf("got %v", err)
	}
	if full.writes != 1 {
		t.Errorf("%d writes after the stream had failed", full.writes-1)
	}
	if _, err := s.Raw().Write([]byte("x")); err == nil {
		t.Error("who copies is not stopped")
	}
}

// FuzzPrinted: whatever the text, what is printed is safe, a line is one line,
// and JSON means the same.
func FuzzPrinted(f *testing.F) {
	f.Add(hostile)
	f.Add("\xe2\x80\xae \xc2\x9b \xed\xa0\x80 \U0001f600")
	f.Fuzz(func(t *testing.T, text string) {
		var b bytes.Buffer
		s := New(&b, "stdout")
		s.Line("%s", text)
		tab := s.Table()
		tab.Row(text, "x")
		tab.End()
		w := s.Log()
		io.WriteString(w, text)
		w.Close()
		if !strings.HasSuffix(b.String(), "\n") {
			s.Line("")
		}
		if err := s.JSON(map[string]string{"k": text}); err != nil {
			t.Fatal(err)
		}
		for _, r := range b.String() {
			if r != '\n' && r != '\t' && !strconv.IsPrint(r) {
				t.Fatalf("%q is printed as %q", text, b.String())
			}
		}
		if !utf8.ValidString(b.String()) {
			t.Fatalf("%q is printed as %q", text, b.String())
		}
		lines := strings.Split(b.String(), "\n")
		if logged := strings.Count(text, "\n"); len(lines) < 6+logged || strings.ContainsAny(lines[0]+lines[1], "\t") {
			t.Fatalf("%q forges lines: %q", text, b.String())
		}
		i := strings.LastIndex(b.String(), "\n{")
		got := map[string]string{}
		if err := json.Unmarshal([]byte(b.String()[i:]), &got); err != nil {
			t.Fatal(err)
		}
		if want := strings.ToValidUTF8(text, "�"); utf8.ValidString(text) && got["k"] != want {
			t.Fatalf("%q came back as %q", text, got["k"])
		}
	})
}
