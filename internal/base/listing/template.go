package listing

import (
	"bytes"
	"errors"
	"fmt"
	"reflect"
	"strings"
	"text/template"
	"text/template/parse"

	"github.com/cocoonv2/cocoon/internal/base/failure"
	"github.com/cocoonv2/cocoon/internal/base/screen"
)

// CheckFormat is called before anything is done. Text without a template would
// print itself for every row, which helps nobody.
func CheckFormat(format string) error {
	if format == "" || format == "table" || format == "json" {
		return nil
	}
	if !strings.Contains(format, "{{") {
		return failure.New(failure.Usage, "--format %q: table, json or a Go template such as {{.ID}}", format)
	}
	_, err := parseTemplate(format)
	return err
}

// rowTemplate is a template given by the operator. What its actions print is
// escaped as a cell is; its literal text is kept, and \t and \n in it are tab and
// newline.
type rowTemplate struct {
	*template.Template
	heading string // of "table …", else ""
}

// safeText was escaped when it was made.
type safeText string

// templateFuncs override those of text/template: functions that format text must
// know which part of it comes from the operator.
var templateFuncs = template.FuncMap{
	"json":    func(v any) (safeText, error) { b, err := screen.EncodeJSON(v); return safeText(b), err },
	"join":    strings.Join,
	"split":   strings.Split,
	"lower":   func(v any) string { return strings.ToLower(fmt.Sprint(v)) },
	"upper":   func(v any) string { return strings.ToUpper(fmt.Sprint(v)) },
	"print":   func(args ...any) safeText { return safeText(fmt.Sprint(safeArgs(args)...)) },
	"println": func(args ...any) safeText { return safeText(fmt.Sprintln(safeArgs(args)...)) },
	"printf": func(format any, args ...any) safeText {
		return safeText(fmt.Sprintf(fmt.Sprint(format), safeArgs(args)...))
	},
	escaper: escape,
}

// escaper is appended to every pipeline that prints.
const escaper = "_escape"

// escape prints what v points to, as templates do.
func escape(v any) safeText {
	switch v := v.(type) {
	case safeText:
		return v
	case fmt.Stringer, error:
		return safeText(screen.Safe(fmt.Sprint(v)))
	}
	if p := reflect.ValueOf(v); p.Kind() == reflect.Pointer && !p.IsNil() {
		return escape(p.Elem().Interface())
	}
	return safeText(screen.Safe(fmt.Sprint(v)))
}

// safeArgs leaves numbers for %d and %f; everything else is text.
func safeArgs(args []any) []any {
	out := make([]any, len(args))
	for i, a := range args {
		out[i] = a
		switch reflect.ValueOf(a).Kind() {
		case reflect.Bool, reflect.Int, reflect.Int8, reflect.Int16, reflect.Int32, reflect.Int64,
			reflect.Uint, reflect.Uint8, reflect.Uint16, reflect.Uint32, reflect.Uint64, reflect.Float32, reflect.Float64:
		default:
			out[i] = escape(a)
		}
	}
	return out
}

func parseTemplate(text string) (*rowTemplate, error) {
	isTable := false
	if rest, ok := strings.CutPrefix(text, "table"); ok && strings.ContainsAny(rest[:1], ` \{`) {
		text, isTable = strings.TrimSpace(rest), true
	}
	t, err := template.New("format").Funcs(templateFuncs).Option("missingkey=error").Parse(text)
	if err != nil {
		return nil, badTemplate(err)
	}
	out := &rowTemplate{Template: t}
	for _, part := range t.Templates() {
		if part.Tree != nil {
			escapeList(part.Root)
		}
	}
	if isTable {
		out.heading = heading(t.Root)
	}
	return out, nil
}

func badTemplate(err error) error { return failure.New(failure.Usage, "--format: %w", err) }

func templated[T any](s *screen.Screen, text string, rows []T) error {
	t, err := parseTemplate(text)
	if err != nil {
		return err
	}
	var out bytes.Buffer
	for _, r := range rows {
		if err := t.Execute(&out, r); err != nil {
			return badTemplate(withFields(err, reflect.TypeFor[T]()))
		}
		out.WriteByte('\n')
	}
	if t.heading != "" {
		tab := s.Table()
		tab.Add([]byte(t.heading))
		tab.Add(out.Bytes())
		tab.End()
		return nil
	}
	_, _ = s.Text().Write(out.Bytes())
	return nil
}

// withFields adds the available fields to an error about a missing one.
func withFields(err error, row reflect.Type) error {
	if !strings.Contains(err.Error(), "can't evaluate field") {
		return err
	}
	var names []string
	for _, f := range reflect.VisibleFields(row) {
		if f.IsExported() && !f.Anonymous {
			names = append(names, "."+f.Name)
		}
	}
	return fmt.Errorf("%w; a row has %s", errors.Unwrap(err), strings.Join(names, " "))
}

// escapeList walks the nodes of a template in order.
func escapeList(list *parse.ListNode) {
	if list == nil {
		return
	}
	for _, n := range list.Nodes {
		switch n := n.(type) {
		case *parse.TextNode:
			n.Text = []byte(strings.NewReplacer(`\t`, "\t", `\n`, "\n").Replace(string(n.Text)))
		case *parse.ActionNode:
			escapePipe(n.Pipe, len(n.Pipe.Decl) == 0 && !isLiteral(n.Pipe))
		case *parse.IfNode:
			escapeBranch(&n.BranchNode)
		case *parse.RangeNode:
			escapeBranch(&n.BranchNode)
		case *parse.WithNode:
			escapeBranch(&n.BranchNode)
		case *parse.TemplateNode:
			if n.Pipe != nil {
				escapePipe(n.Pipe, false)
			}
		}
	}
}

func escapeBranch(b *parse.BranchNode) {
	escapePipe(b.Pipe, false)
	escapeList(b.List)
	escapeList(b.ElseList)
}

// isLiteral: {{"\n"}} is literal text of the operator.
func isLiteral(p *parse.PipeNode) bool {
	return len(p.Cmds) == 1 && len(p.Cmds[0].Args) == 1 && p.Cmds[0].Args[0].Type() == parse.NodeString
}

// escapePipe appends the escaper to a pipeline that prints, and puts it before
// each printf whose format is not a literal.
func escapePipe(p *parse.PipeNode, prints bool) {
	var cmds []*parse.CommandNode
	for i, c := range p.Cmds {
		for j, arg := range c.Args {
			inner, ok := arg.(*parse.PipeNode)
			if ok {
				escapePipe(inner, false)
			}
			if j == 1 && calls(c, "printf") && arg.Type() != parse.NodeString {
				c.Args[1] = escaped(p, arg)
			}
		}
		if i > 0 && calls(c, "printf") && len(c.Args) == 1 {
			cmds = append(cmds, escapeCommand(p))
		}
		cmds = append(cmds, c)
	}
	if prints {
		cmds = append(cmds, escapeCommand(p))
	}
	p.Cmds = cmds
}

func calls(c *parse.CommandNode, name string) bool {
	id, ok := c.Args[0].(*parse.IdentifierNode)
	return ok && id.Ident == name
}

func escapeCommand(at *parse.PipeNode) *parse.CommandNode {
	return &parse.CommandNode{NodeType: parse.NodeCommand, Pos: at.Pos, Args: []parse.Node{parse.NewIdentifier(escaper).SetPos(at.Pos)}}
}

// escaped is (arg | _escape).
func escaped(at *parse.PipeNode, arg parse.Node) parse.Node {
	first := &parse.CommandNode{NodeType: parse.NodeCommand, Pos: at.Pos, Args: []parse.Node{arg}}
	return &parse.PipeNode{NodeType: parse.NodePipe, Pos: at.Pos, Line: at.Line, Cmds: []*parse.CommandNode{first, escapeCommand(at)}}
}

// heading is the header line of "table": the text of the template, with the name
// of the field in place of each action.
func heading(list *parse.ListNode) string {
	var b strings.Builder
	for _, n := range list.Nodes {
		switch n := n.(type) {
		case *parse.TextNode:
			b.Write(n.Text)
		case *parse.ActionNode:
			b.WriteString(fieldOf(n.Pipe))
		case *parse.RangeNode:
			b.WriteString(fieldOf(n.Pipe))
		case *parse.IfNode:
			b.WriteString(fieldOf(n.Pipe))
		case *parse.WithNode:
			b.WriteString(fieldOf(n.Pipe))
		}
	}
	return b.String() + "\n"
}

// fieldOf is the first field of a pipeline: .VM.Name is VM NAME.
func fieldOf(p *parse.PipeNode) string {
	for _, c := range p.Cmds {
		for _, arg := range c.Args {
			switch arg := arg.(type) {
			case *parse.FieldNode:
				return strings.ToUpper(strings.Join(arg.Ident, " "))
			case *parse.PipeNode:
				if name := fieldOf(arg); name != "" {
					return name
				}
			}
		}
	}
	return ""
}
