package layout

import (
	"go/ast"
	"go/token"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// commandLine is how a text spells a command of ours or a flag.
var commandLine = regexp.MustCompile(`\bcocoon (config|demo|gc|image|refs|snapshot|system|vm)\b|(^|[\s("'])--[a-z]`)

// spellsFlags are the rooms and files that do, each with the reason.
var spellsFlags = map[string]string{
	"cmd/": "it is the command", "internal/base/hint/": "there the words are", "internal/engine/demo/": "it shows the command at work",
	"internal/base/listing/": "formats and filters of the command's lists", "internal/test/": "tests",
	"chsnap/": "flags of the VMM", "internal/engine/keeper/": "flags of the VMM", "internal/engine/vm/scope.go": "flags of systemd-run",
	"internal/engine/vm/life.go": "flags of the VMM", "internal/engine/vm/confine.go": "flags of the VMM", "internal/engine/vm/vsock.go": "flags of the VMM",
	"internal/engine/vm/launch.go": "flags of the VMM", "internal/engine/vm/machine.go": "flags of the VMM", "internal/engine/vm/agree.go": "flags of the VMM",
	"internal/engine/vm/hardware.go":       "flags of the VMM, and which of ours give a VM the same",
	"internal/engine/capture/devices.go":   "flags of ch-remote",
	"internal/engine/capture/preflight.go": "flags of the VMM",
	"gc/metrics.go":                        "help of a metric, which only the command writes",
	"store/contents/contents.go":           "a label of the format",
}

// notes are what a holder of a lock says that it does.
var notes = []string{"vm create --from-snapshot", "vm start --cold"}

// TestOnlyHintSpellsTheCommandLine: a remedy is for a person or for a program, and a
// room below the doors does not know for which.
func TestOnlyHintSpellsTheCommandLine(t *testing.T) {
	used := map[string]bool{}
	product(t, func(rel string, file *ast.File) {
		ast.Inspect(file, func(n ast.Node) bool {
			switch n := n.(type) {
			case *ast.ImportSpec, *ast.Field:
				return false
			case *ast.BasicLit:
				if n.Kind != token.STRING || !commandLine.MatchString(strings.Trim(n.Value, "\"`")) || slices.Contains(notes, strings.Trim(n.Value, `"`)) {
					return true
				}
				for listed := range spellsFlags {
					if strings.HasPrefix(rel, listed) {
						used[listed] = true
						return true
					}
				}
				t.Errorf("%s says %s: use a word of package hint", rel, n.Value)
			}
			return true
		})
	})
	for listed := range spellsFlags {
		if !used[listed] {
			t.Errorf("%s is listed and spells nothing", listed)
		}
	}
}

// TestEveryWordIsSaid by some room: package hint has no others.
func TestEveryWordIsSaid(t *testing.T) {
	words := map[string]bool{}
	for _, file := range files(t, "internal/base/hint") {
		for _, d := range file.Decls {
			if g, ok := d.(*ast.GenDecl); ok && g.Tok == token.CONST {
				for _, name := range declared(d) {
					words[name] = true
				}
			}
		}
	}
	if len(words) < 20 {
		t.Fatalf("only %d words found", len(words))
	}
	product(t, func(rel string, file *ast.File) {
		if rel == "words.go" { // which gives them other names
			return
		}
		for _, s := range named(file) {
			if s.X.(*ast.Ident).Name == "hint" {
				delete(words, s.Sel.Name)
			}
		}
	})
	for name := range words {
		t.Errorf("nobody says hint.%s", name)
	}
}

// TestHintsToProgramsNameWhatThereIs: the names that package cocoon gives to words
// are of its methods and fields.
func TestHintsToProgramsNameWhatThereIs(t *testing.T) {
	there := map[string]bool{}
	all := files(t, ".")
	for _, file := range all {
		for _, d := range file.Decls {
			switch d := d.(type) {
			case *ast.FuncDecl:
				if d.Recv != nil {
					there[receiver(d).Name+"."+d.Name.Name] = true
				}
			case *ast.GenDecl:
				for _, s := range d.Specs {
					for _, field := range fields(s) {
						there[field] = true
					}
				}
			}
		}
	}
	member := regexp.MustCompile(`\b[A-Z]\w+\.[A-Z]\w+`)
	seen := 0
	for _, file := range all {
		ast.Inspect(file, func(n ast.Node) bool {
			kv, ok := n.(*ast.KeyValueExpr)
			if !ok {
				return true
			}
			key := named(kv.Key)
			text, isText := kv.Value.(*ast.BasicLit)
			if len(key) != 1 || key[0].X.(*ast.Ident).Name != "hint" || !isText {
				return true
			}
			for _, name := range member.FindAllString(text.Value, -1) {
				seen++
				if !there[name] {
					t.Errorf("a program is told of %s, which package cocoon does not have", name)
				}
			}
			return true
		})
	}
	if seen < 20 {
		t.Errorf("only %d names found", seen)
	}
}

// named are the selectors of a name, such as those of packages, wherever they stand.
func named(n ast.Node) (found []*ast.SelectorExpr) {
	ast.Inspect(n, func(n ast.Node) bool {
		if s, ok := n.(*ast.SelectorExpr); ok {
			if _, ok := s.X.(*ast.Ident); ok {
				found = append(found, s)
			}
		}
		return true
	})
	return found
}

// fields are those of a struct, behind its name.
func fields(s ast.Spec) (names []string) {
	of, ok := s.(*ast.TypeSpec)
	if !ok {
		return nil
	}
	st, ok := of.Type.(*ast.StructType)
	if !ok {
		return nil
	}
	for _, f := range st.Fields.List {
		for _, id := range f.Names {
			names = append(names, of.Name.Name+"."+id.Name)
		}
	}
	return names
}
