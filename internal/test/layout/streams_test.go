package layout

import (
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// streams are the ways to stdout and stderr past package screen.
var streams = map[string][]string{
	"os":             {"Stdout", "Stderr"},
	"fmt":            {"Print", "Printf", "Println"},
	"log":            {"Print", "Printf", "Println", "Fatal", "Fatalf", "Fatalln", "Default"},
	"text/tabwriter": {"NewWriter"},
}

// cobraStreams are methods of a command that reach them too.
var cobraStreams = []string{
	"Print", "Printf", "Println", "PrintErr", "PrintErrf", "PrintErrln", "OutOrStdout", "OutOrStderr", "ErrOrStderr", "OutOrStdErr",
}

// mayWrite names the files that hold the streams, and the rooms that are programs
// or tests of their own.
var mayWrite = []string{
	"cmd/cocoon/main.go", "internal/base/screen/", "internal/test/bench/", "internal/test/inmemory/", "internal/test/benchvmm/", "internal/test/leaktest/", "internal/test/linuxguests/",
	"internal/test/networktest/", "internal/test/chsnaptest/", "testdata/",
}

// mayPrintRaw are the verbs whose data are bytes: an archive, the guest's own
// output.
var mayPrintRaw = []string{"cmd/cocoon/snapshotexport.go", "cmd/cocoon/vm.go"}

func TestOnlyTheScreenHoldsTheStreams(t *testing.T) {
	raw := 0
	product(t, func(rel string, file *ast.File) {
		if slices.ContainsFunc(mayWrite, func(p string) bool { return strings.HasPrefix(rel, p) }) {
			return
		}
		for _, found := range writes(file) {
			switch {
			case found == "Raw" && slices.Contains(mayPrintRaw, rel):
				raw++
			case found == "Raw":
				t.Errorf("%s prints raw bytes: use Line, Table, JSON or Text of its screen", rel)
			default:
				t.Errorf("%s uses %s: print through a screen, which escapes what comes from elsewhere", rel, found)
			}
		}
	})
	if raw < len(mayPrintRaw) {
		t.Errorf("%d uses of Raw in %v: the test does not see them, or the list is too long", raw, mayPrintRaw)
	}
}

// TestOnlyDurableReplaces: a rename that replaces what is there looks at it first,
// so that no device, pipe or link is replaced.
func TestOnlyDurableReplaces(t *testing.T) {
	seen := 0
	product(t, func(rel string, file *ast.File) {
		imported := imports(file)
		ast.Inspect(file, func(n ast.Node) bool {
			sel, ok := n.(*ast.SelectorExpr)
			if !ok || sel.Sel.Name != "Rename" && sel.Sel.Name != "Renameat" && sel.Sel.Name != "Renameat2" {
				return true
			}
			of, isName := sel.X.(*ast.Ident)
			if !isName || !slices.Contains([]string{"os", "golang.org/x/sys/unix", "syscall"}, imported[of.Name]) {
				return true
			}
			seen++
			if !strings.HasPrefix(rel, "internal/base/durable/") && !strings.Contains(rel, "test/") {
				t.Errorf("%s uses %s.%s: durable.Replace, Publish or Exchange is meant", rel, of.Name, sel.Sel.Name)
			}
			return true
		})
	})
	if seen < 3 {
		t.Errorf("%d renames seen, even durable has more", seen)
	}
}

// product goes through the sources that are no tests.
func product(t *testing.T, f func(rel string, file *ast.File)) {
	t.Helper()
	root := filepath.Join("..", "..", "..")
	err := filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() || !strings.HasSuffix(path, ".go") || strings.HasSuffix(path, "_test.go") {
			return err
		}
		rel, err := filepath.Rel(root, path)
		if err != nil {
			return err
		}
		file, err := parser.ParseFile(token.NewFileSet(), path, nil, 0)
		if err != nil {
			return err
		}
		f(rel, file)
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
}

// imports gives the path of each name of a package.
func imports(file *ast.File) map[string]string {
	imported := map[string]string{}
	for _, im := range file.Imports {
		path := strings.Trim(im.Path.Value, `"`)
		name := filepath.Base(path)
		if im.Name != nil {
			name = im.Name.Name
		}
		imported[name] = path
	}
	return imported
}

// writes lists what of streams a file uses, and calls of Raw.
func writes(file *ast.File) (found []string) {
	imported := imports(file)
	ast.Inspect(file, func(n ast.Node) bool {
		switch n := n.(type) {
		case *ast.CallExpr:
			if id, ok := n.Fun.(*ast.Ident); ok && (id.Name == "print" || id.Name == "println") && id.Obj == nil {
				found = append(found, id.Name)
			}
		case *ast.SelectorExpr:
			of, isName := n.X.(*ast.Ident)
			path := ""
			if isName {
				path = imported[of.Name]
			}
			switch {
			case slices.Contains(streams[path], n.Sel.Name):
				found = append(found, path+"."+n.Sel.Name)
			case path == "" && n.Sel.Name == "Raw":
				found = append(found, "Raw")
			case path == "" && imported["cobra"] != "" && slices.Contains(cobraStreams, n.Sel.Name):
				found = append(found, "cobra's "+n.Sel.Name)
			}
		}
		return true
	})
	return found
}
