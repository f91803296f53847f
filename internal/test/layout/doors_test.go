package layout

import (
	"go/ast"
	"go/parser"
	"go/token"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// TestTheDoorIsSmall: a reader sees the whole of package cocoon at once.
func TestTheDoorIsSmall(t *testing.T) {
	const most = 15
	var names []string
	for _, file := range files(t, ".") {
		for _, d := range file.Decls {
			names = append(names, declared(d)...)
		}
	}
	if len(names) == 0 || len(names) > most {
		t.Errorf("package cocoon exports %d names, want 1 to %d: %v", len(names), most, names)
	}
}

// TestThePageOfTheLibraryNamesEveryCall: one page is the whole of it.
func TestThePageOfTheLibraryNamesEveryCall(t *testing.T) {
	page, err := os.ReadFile(filepath.Join("..", "..", "..", "docs", "library.md"))
	if err != nil {
		t.Fatal(err)
	}
	calls := 0
	for _, file := range files(t, ".") {
		for _, d := range file.Decls {
			f, ok := d.(*ast.FuncDecl)
			if !ok || f.Recv == nil || receiver(f).Name != "Host" || !f.Name.IsExported() {
				continue
			}
			calls++
			if !strings.Contains(string(page), "`"+f.Name.Name+"`") {
				t.Errorf("docs/library.md does not name %s", f.Name.Name)
			}
		}
	}
	if calls < 10 {
		t.Errorf("only %d calls found", calls)
	}
}

// wired are what makes a room of a store, or runs one of the big jobs over it.
var wired = map[string][]string{
	"store": {"Open"}, "internal/engine/image": {"New"}, "internal/engine/vm": {"New"}, "refs": {"New"},
	"restore": {"Engine"}, "internal/engine/capture": {"Saver", "Importer"}, "internal/engine/registry": {"Mover"},
	"gc": {"Collect", "Missing", "WriteMetrics"}, "internal/base/config": {"Load"}, "internal/base/filelock": {"WithWaits"}, "store/repair": {"Run", "Verify"}, "store/layout": {"Remake"},
}

// TestOneWiring: the command and package cocoon open the same house, and neither puts
// rooms together by itself, so that what one does the other does by the same lines.
func TestOneWiring(t *testing.T) {
	seen := 0
	product(t, func(rel string, file *ast.File) {
		dir := filepath.Dir(rel)
		if strings.HasPrefix(dir, "internal/test") || strings.HasPrefix(dir, "testdata") {
			return
		}
		imported := imports(file)
		for _, sel := range named(file) {
			of := sel.X.(*ast.Ident)
			room := strings.TrimPrefix(imported[of.Name], module)
			switch {
			case !slices.Contains(wired[room], sel.Sel.Name):
			case dir == "internal/engine/house":
				seen++
			default:
				t.Errorf("%s uses %s.%s: only internal/engine/house puts rooms together", rel, of.Name, sel.Sel.Name)
			}
		}
	})
	if seen < len(wired) {
		t.Errorf("the house uses %d of %d: the test does not see them", seen, len(wired))
	}
}

// TestPublicSignaturesMentionNothingInternal: whoever cannot write a type cannot
// call what takes it. Every room is looked at that others can import.
func TestPublicSignaturesMentionNothingInternal(t *testing.T) {
	rooms := publicRooms(t)
	for _, room := range rooms {
		for what, where := range leaks(t, room) {
			t.Errorf("%s of %s mentions %s, which nobody outside of this module can write", where, room, what)
		}
	}
	if len(rooms) < 15 {
		t.Errorf("only %d rooms found: %v", len(rooms), rooms)
	}
}

// publicRooms are the folders of packages that others can import.
func publicRooms(t *testing.T) (rooms []string) {
	t.Helper()
	product(t, func(rel string, file *ast.File) {
		room := filepath.Dir(rel)
		inside := slices.ContainsFunc(strings.Split(room, "/"), func(s string) bool { return s == "internal" || s == "testdata" })
		if !inside && file.Name.Name != "main" && !slices.Contains(rooms, room) {
			rooms = append(rooms, room)
		}
	})
	return rooms
}

// files are the sources of a package that are no tests.
func files(t *testing.T, room string) (all []*ast.File) {
	t.Helper()
	paths, err := filepath.Glob(filepath.Join("..", "..", "..", room, "*.go"))
	if err != nil {
		t.Fatal(err)
	}
	for _, path := range paths {
		if strings.HasSuffix(path, "_test.go") {
			continue
		}
		f, err := parser.ParseFile(token.NewFileSet(), path, nil, 0)
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, f)
	}
	if len(all) == 0 {
		t.Fatalf("%s has no files", room)
	}
	return all
}

// declared are the exported names of a declaration at the top; methods are found
// through their types.
func declared(d ast.Decl) (names []string) {
	add := func(id *ast.Ident) {
		if id.IsExported() {
			names = append(names, id.Name)
		}
	}
	switch d := d.(type) {
	case *ast.FuncDecl:
		if d.Recv == nil {
			add(d.Name)
		}
	case *ast.GenDecl:
		for _, s := range d.Specs {
			switch s := s.(type) {
			case *ast.TypeSpec:
				add(s.Name)
			case *ast.ValueSpec:
				for _, id := range s.Names {
					add(id)
				}
			}
		}
	}
	return names
}

// leaks are the types of internal packages that the exported signatures of a room
// mention, each with a declaration that does.
func leaks(t *testing.T, room string) map[string]string {
	t.Helper()
	found := map[string]string{}
	for _, file := range files(t, room) {
		imported := imports(file)
		for _, d := range file.Decls {
			for where, shown := range exported(d) {
				for _, sel := range selectors(shown) {
					of, ok := sel.X.(*ast.Ident)
					if ok && strings.Contains(imported[of.Name], "/internal/") {
						found[of.Name+"."+sel.Sel.Name] = where
					}
				}
			}
		}
	}
	return found
}

// selectors are the names of other packages in an expression that others see: not
// those of fields that they do not.
func selectors(n ast.Node) (found []*ast.SelectorExpr) {
	ast.Inspect(n, func(n ast.Node) bool {
		switch n := n.(type) {
		case *ast.SelectorExpr:
			found = append(found, n)
			return false
		case *ast.StructType:
			for _, f := range n.Fields.List {
				if len(f.Names) == 0 || slices.ContainsFunc(f.Names, (*ast.Ident).IsExported) {
					found = append(found, selectors(f.Type)...)
				}
			}
			return false
		}
		return true
	})
	return found
}

// exported is what of a declaration others see, by the name of it.
func exported(d ast.Decl) map[string]ast.Node {
	shown := map[string]ast.Node{}
	switch d := d.(type) {
	case *ast.FuncDecl:
		if d.Name.IsExported() && (d.Recv == nil || receiver(d).IsExported()) {
			shown[d.Name.Name] = d.Type
		}
	case *ast.GenDecl:
		for _, s := range d.Specs {
			switch s := s.(type) {
			case *ast.TypeSpec:
				if s.Name.IsExported() && !s.Assign.IsValid() { // another name for it is one that all can write
					shown[s.Name.Name] = s.Type
				}
			case *ast.ValueSpec:
				if s.Type != nil && s.Names[0].IsExported() {
					shown[s.Names[0].Name] = s.Type
				}
			}
		}
	}
	return shown
}

func receiver(d *ast.FuncDecl) *ast.Ident {
	of := d.Recv.List[0].Type
	if star, ok := of.(*ast.StarExpr); ok {
		of = star.X
	}
	id, ok := of.(*ast.Ident)
	if !ok {
		return ast.NewIdent("_")
	}
	return id
}
