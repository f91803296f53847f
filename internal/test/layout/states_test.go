package layout

import (
	"go/ast"
	"go/token"
	"strconv"
	"testing"
)

// TestStatesAreNamedNotSpelled: a state of a VM or a snapshot is compared with and
// set to its constant, so that a word that is spelled wrong does not compile.
func TestStatesAreNamedNotSpelled(t *testing.T) {
	for _, room := range []string{".", "cmd/cocoon", "gc", "internal/engine/capture", "internal/engine/doctor", "internal/engine/house", "internal/engine/registry", "internal/engine/vm", "restore", "store", "store/repair"} {
		for _, file := range files(t, room) {
			ast.Inspect(file, func(n ast.Node) bool {
				switch n := n.(type) {
				case *ast.BinaryExpr:
					if n.Op == token.EQL || n.Op == token.NEQ {
						spelled(t, room, []ast.Expr{n.X}, []ast.Expr{n.Y})
					}
				case *ast.AssignStmt:
					spelled(t, room, n.Lhs, n.Rhs)
				case *ast.KeyValueExpr:
					if key, ok := n.Key.(*ast.Ident); ok {
						spelled(t, room, []ast.Expr{&ast.SelectorExpr{X: key, Sel: key}}, []ast.Expr{n.Value})
					}
				}
				return true
			})
		}
	}
}

// spelled finds a text that stands for the field State of ours. What the VMM calls
// its states begins with a capital.
func spelled(t *testing.T, room string, to, from []ast.Expr) {
	t.Helper()
	for i := range min(len(to), len(from)) {
		field, ok := to[i].(*ast.SelectorExpr)
		text, ok2 := from[i].(*ast.BasicLit)
		if !ok || !ok2 || field.Sel.Name != "State" || text.Kind != token.STRING {
			continue
		}
		if word, err := strconv.Unquote(text.Value); err == nil && word != "" && word[0] >= 'a' {
			t.Errorf("%s spells the state %q", room, word)
		}
	}
}
