package sim

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"syscall"
)

// apiError is an answer that is not a success: the HTTP status and the chain of
// messages, outermost first, that the real VMM sends as a JSON array.
type apiError struct {
	status int
	chain  []string
}

func (e *apiError) Error() string { return strings.Join(e.chain, ": ") }

func (e *apiError) body() []byte {
	var b bytes.Buffer
	enc := json.NewEncoder(&b)
	enc.SetEscapeHTML(false) // as serde does
	if err := enc.Encode(e.chain); err != nil {
		panic(err) // a []string always marshals
	}
	return bytes.TrimRight(b.Bytes(), "\n")
}

// fault is an inner part of a chain, without the two outer messages that the
// endpoint adds. notFound makes the answer 404 (v53: VM or configuration absent).
type fault struct {
	chain    []string
	notFound bool
}

func (f *fault) Error() string { return strings.Join(f.chain, ": ") }

func faultf(chain ...string) *fault { return &fault{chain: chain} }

// because appends the text of an operating system error the way Rust prints it.
func (f *fault) because(err error) *fault {
	f.chain = append(f.chain, osMessage(err))
	return f
}

// osMessage prints err's errno as Rust's std::io::Error does: the libc text and
// the number. Other errors print as they are.
func osMessage(err error) string {
	var errno syscall.Errno
	if !errors.As(err, &errno) {
		return err.Error()
	}
	text := errno.Error()
	return fmt.Sprintf("%s%s (os error %d)", strings.ToUpper(text[:1]), text[1:], int(errno))
}

// Inner errors that several calls share; the texts are those of v53.0.
func errNotRunning() *fault { return faultf("VM is not running") }
func errNotCreated() *fault { return &fault{chain: []string{"VM is not created"}, notFound: true} }
func errNoConfig() *fault   { return &fault{chain: []string{"VM config is missing"}, notFound: true} }
func errExists() *fault     { return faultf("VM is already created") }

func errTransition(from, to string) string {
	return fmt.Sprintf("Invalid transition: InvalidStateTransition(%s, %s)", from, to)
}

// asAPIError puts the endpoint's outer message around an inner error.
func asAPIError(outer string, err error) *apiError {
	var ready *apiError
	if errors.As(err, &ready) {
		return ready
	}
	a := &apiError{status: 500, chain: []string{"Error from API", outer}}
	var f *fault
	if !errors.As(err, &f) {
		a.chain = append(a.chain, err.Error())
		return a
	}
	if f.notFound {
		a.status = 404
	}
	a.chain = append(a.chain, f.chain...)
	return a
}
