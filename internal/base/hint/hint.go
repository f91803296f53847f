// Package hint names what can be done next. A room that refuses something knows the
// remedy, but not through which door the caller came: a person types a command, a
// program calls a method. So a remedy is put together of words:
//
//	failure.Hint(err, hint.Wake.Of(rec.Name)+" resumes it; "+hint.Cold.Of()+" boots it from its disks")
//
// A [Word] is a call or an option. What it is called on the command line stands in
// this package, words.go; package cocoon gives the names of its own methods and
// fields by [Speak]. No other room below the doors spells a command or a flag;
// the layout test enforces that.
package hint

import "strings"

// Word is a call, or an option of one, by its name on the command line. Where "{}"
// stands in a name, or else behind it, come the arguments.
type Word string

// own are the names that this process uses instead.
var own map[Word]string

// Speak gives words other names, for a process that is not the command. It is called
// before anything else runs.
func Speak(names map[Word]string) { own = names }

// String is the word without arguments.
func (w Word) String() string { return w.Of() }

// Of is the word with its arguments.
func (w Word) Of(args ...string) string {
	name, between := string(w), " "
	if own != nil {
		switch called, ok := own[w]; {
		case ok:
			name, between = called, ", "
		case strings.HasPrefix(name, "--"):
			name = "the command's " + name
		}
	}
	text := strings.Join(args, between)
	switch {
	case strings.Contains(name, "{}"):
		return strings.Replace(name, "{}", text, 1)
	case text != "":
		return name + " " + text
	}
	return name
}
