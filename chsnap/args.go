package chsnap

import (
	"fmt"
	"strconv"
	"strings"

	"github.com/cocoonv2/cocoon/internal/base/failure"
	"github.com/cocoonv2/cocoon/internal/base/spelling"
)

// Args builds the command line of a VMM. Commas separate the options of an
// argument, the VMM's parser gives quotes and brackets a meaning, and a leading
// dash starts the next flag. So values are never concatenated: each is added by a
// method or an [Option] of its kind, and a value that the kind cannot hold
// becomes the error of List: failure.Damaged for words and texts, which come from
// records, and failure.Usage for paths, which the operator chose. The zero value
// is empty.
type Args struct {
	list []string
	flag string // the last one that takes several values
	err  error
}

// Option is one key=value of an argument, or nothing if the value is empty.
type Option struct {
	text string
	err  error
}

// maxWord limits ids, serials and the like, characters.
const maxWord = 64

// WordOption is an id, a serial or another word.
func WordOption(key, word string) Option {
	if !spelling.Word(word, maxWord) {
		return Option{err: failure.New(failure.Damaged, "%s %.80q cannot be an argument of the VMM", key, word)}
	}
	return option(key, word)
}

// DeviceOption is the name of a network device of the host.
func DeviceOption(key, name string) Option {
	if name != "" && !spelling.Device(name) {
		return Option{err: failure.New(failure.Damaged, "%s %.80q is no name of a device", key, name)}
	}
	return option(key, name)
}

// NumberOption is a count or a size, not negative.
func NumberOption(key string, n int64) Option {
	if n < 0 {
		return Option{err: failure.New(failure.Damaged, "%s %d is below zero", key, n)}
	}
	return option(key, strconv.FormatInt(n, 10))
}

// PathOption is a file of this store or its run folder.
func PathOption(key, path string) Option {
	if err := checkPath(path); err != nil {
		return Option{err: err}
	}
	return option(key, path)
}

// OperatorOption is text of the configuration, which may be several options:
// always the operator's, never a snapshot's.
func OperatorOption(text string) Option { return Option{text: text} }

func option(key, value string) Option {
	if value == "" {
		return Option{}
	}
	return Option{text: key + "=" + value}
}

// checkPath: these characters have a meaning to the option parser, and no escape
// works in all versions of the VMM.
func checkPath(path string) error {
	if path != "" && path[0] != '-' && !strings.ContainsAny(path, `,"[]`) && !strings.ContainsFunc(path, control) {
		return nil
	}
	return failure.Hint(failure.New(failure.Usage, "the VMM cannot be given the path %q: a dash, comma, quote, bracket or control character would change what it is told", path),
		"choose a root folder and a run folder without them")
}

func control(r rune) bool { return r < ' ' || r == 0x7f }

// Options adds a flag whose value consists of options. Repeating a flag directly
// after itself gives it several values.
func (a *Args) Options(flag string, options ...Option) {
	var text []string
	for _, o := range options {
		a.Fail(flag, o.err)
		if o.text != "" {
			text = append(text, o.text)
		}
	}
	if a.flag != flag {
		a.list = append(a.list, flag)
	}
	a.flag, a.list = flag, append(a.list, strings.Join(text, ","))
}

// Fixed adds a flag with a constant value.
func (a *Args) Fixed(flag, value string) { a.add(flag, value) }

// Flag adds a flag without a value.
func (a *Args) Flag(flag string) { a.flag, a.list = "", append(a.list, flag) }

// Path adds a flag whose value is a file.
func (a *Args) Path(flag, path string) {
	a.Fail(flag, checkPath(path))
	a.add(flag, path)
}

// Text adds a flag whose value is any single line of text, such as a kernel
// command line. Line breaks become spaces, which a kernel treats alike.
func (a *Args) Text(flag, text string) {
	text = strings.NewReplacer("\n", " ", "\r", " ", "\t", " ").Replace(text)
	switch {
	case strings.HasPrefix(text, "-"):
		a.Fail(flag, failure.New(failure.Damaged, "%.80q begins with a dash", text))
	case strings.ContainsFunc(text, control):
		a.Fail(flag, failure.New(failure.Damaged, "%.80q has control characters", text))
	}
	a.add(flag, text)
}

// Operator adds arguments unchanged: those given or explicitly trusted by the
// operator.
func (a *Args) Operator(args ...string) { a.flag, a.list = "", append(a.list, args...) }

// Append adds the arguments of b.
func (a *Args) Append(b Args) {
	a.flag, a.list = "", append(a.list, b.list...)
	a.Fail("", b.err)
}

func (a *Args) add(flag, value string) { a.flag, a.list = "", append(a.list, flag, value) }

// Fail keeps the first error: List has it.
func (a *Args) Fail(flag string, err error) {
	switch {
	case err == nil || a.err != nil:
	case flag == "":
		a.err = err
	default:
		a.err = fmt.Errorf("argument %s: %w", flag, err)
	}
}

// List is the command line.
func (a Args) List() ([]string, error) {
	if a.err != nil {
		return nil, a.err
	}
	return append([]string{}, a.list...), nil
}
