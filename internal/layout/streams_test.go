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
	"cmd/cocoon/main.go", "internal/screen/", "internal/bench/", "internal/benchvmm/", "internal/leaktest/",
	"network/networktest/", "chsnap/chsnaptest/",
}

// mayPrintRaw are the verbs whose data are bytes: an archive, the guest's own
// output.
var mayPrintRaw = []string{"cmd/cocoon/snapshotexport.go", "cmd/cocoon/vm.go"}

func TestOnlyTheScreenHoldsTheStreams(t *testing.T) {
	root := filepath.Join("..", "..")
	raw := 0
	err := filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() || !strings.HasSuffix(path, ".go") || strings.HasSuffix(path, "_test.go") {
			return err
		}
		rel, err := filepath.Rel(root, path)
		if err != nil || slices.ContainsFunc(mayWrite, func(p string) bool { return strings.HasPrefix(rel, p) }) {
			return err
		}
		file, err := parser.ParseFile(token.NewFileSet(), path, nil, 0)
		if err != nil {
			return err
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
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if raw < len(mayPrintRaw) {
		t.Errorf("%d uses of Raw in %v: the test does not see them, or the list is too long", raw, mayPrintRaw)
	}
}

// writes lists what of streams a file uses, and calls of Raw.
func writes(file *ast.File) (found []string) {
	imported := map[string]string{}
	for _, im := range file.Imports {
		path := strings.Trim(im.Path.Value, `"`)
		name := filepath.Base(path)
		if im.Name != nil {
			name = im.Name.Name
		}
		imported[name] = path
	}
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
