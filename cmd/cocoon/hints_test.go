package main

import (
	"errors"
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/cocoonv2/cocoon/internal/base/hint"
)

const tree = "../.." // of the module

// TestHintsRunAsTheyArePrinted: each command that a room names as a remedy is one,
// and has the arguments and flags that it needs.
func TestHintsRunAsTheyArePrinted(t *testing.T) {
	t.Parallel()
	words, seen := commandWords(t), 0
	for file, fset := range sources(t) {
		ast.Inspect(file, func(n ast.Node) bool {
			word, args := spoken(n)
			value, isCommand := words[word]
			if !isCommand {
				return true
			}
			seen++
			said := value.Of(slices.Repeat([]string{"ARG"}, args)...)
			if err := runs(t, said); err != nil {
				t.Errorf("%s: %q: %v", fset.Position(n.Pos()), said, err)
			}
			return true
		})
	}
	if seen < 40 {
		t.Fatalf("only %d hints were found", seen)
	}
	for _, wrong := range []string{"cocoon snapshot rm", "cocoon snapshot verify", "cocoon snapshot rm a --unknown", "cocoon image get x"} {
		if runs(t, wrong) == nil {
			t.Errorf("%q is taken for a command that runs", wrong)
		}
	}
}

// runs checks a command line as cobra does, without running it.
func runs(t *testing.T, line string) error {
	t.Helper()
	c, rest, err := newRoot(&app{}).Find(strings.Fields(line)[1:])
	if err != nil {
		return err
	}
	if c.HasSubCommands() {
		return errors.New("it is a group")
	}
	if err := c.ParseFlags(rest); err != nil {
		return err
	}
	return c.ValidateArgs(c.Flags().Args())
}

// commandWords are the calls of package hint, by their names in Go. What is a
// sentence of several is read by people.
func commandWords(t *testing.T) map[string]hint.Word {
	t.Helper()
	file, err := parser.ParseFile(token.NewFileSet(), filepath.Join(tree, "internal/base/hint/words.go"), nil, 0)
	if err != nil {
		t.Fatal(err)
	}
	words := map[string]hint.Word{}
	ast.Inspect(file, func(n ast.Node) bool {
		s, ok := n.(*ast.ValueSpec)
		if !ok {
			return true
		}
		value, err := strconv.Unquote(s.Values[0].(*ast.BasicLit).Value)
		if err != nil {
			t.Fatal(err)
		}
		if strings.HasPrefix(value, "cocoon ") && !strings.Contains(value, ";") {
			words[s.Names[0].Name] = hint.Word(value)
		}
		return true
	})
	return words
}

// spoken tells the word and the number of its arguments where n is hint.Word.Of(…).
func spoken(n ast.Node) (word string, args int) {
	call, ok := n.(*ast.CallExpr)
	if !ok {
		return "", 0
	}
	of, ok := call.Fun.(*ast.SelectorExpr)
	if !ok || of.Sel.Name != "Of" {
		return "", 0
	}
	w, ok := of.X.(*ast.SelectorExpr)
	if !ok {
		return "", 0
	}
	if p, ok := w.X.(*ast.Ident); !ok || p.Name != "hint" {
		return "", 0
	}
	return w.Sel.Name, len(call.Args)
}

// sources are the files of the product.
func sources(t *testing.T) map[*ast.File]*token.FileSet {
	t.Helper()
	all := map[*ast.File]*token.FileSet{}
	err := filepath.WalkDir(tree, func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() || !strings.HasSuffix(path, ".go") || strings.HasSuffix(path, "_test.go") {
			return err
		}
		fset := token.NewFileSet()
		file, err := parser.ParseFile(fset, path, nil, 0)
		all[file] = fset
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return all
}
