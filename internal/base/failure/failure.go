// Package failure names the few classes of error that callers branch on.
//
// A class is a sentinel: errors.Is(err, failure.NotFound) tests for it however
// deeply it is wrapped. The command line maps a class to its exit code with
// [Code]; that table is the only one. Libraries wrap a cause with [Wrap] or make
// a new error with [New]; a remedy for the operator is attached with [Hint] and
// read back with [HintOf].
package failure

import (
	"context"
	"errors"
	"fmt"
	"syscall"
)

// The classes, each with the exit code of the command line in its comment.
var (
	Usage        = errors.New("usage")        // 2
	NotFound     = errors.New("not found")    // 3
	Conflict     = errors.New("conflict")     // 4: in use, or already exists
	Damaged      = errors.New("damaged data") // 5
	Incompatible = errors.New("incompatible") // 6: VMM version, CPU, device, format
	Busy         = errors.New("store busy")   // 7: a lock was not obtained in time
	NoSpace      = errors.New("no space")     // 8: refused before anything was touched
	Interrupted  = errors.New("interrupted")  // 130
)

type classed struct {
	class error
	err   error
}

func (c *classed) Error() string   { return c.err.Error() }
func (c *classed) Unwrap() []error { return []error{c.class, c.err} }

// Wrap gives err a class without changing its text. A nil err stays nil.
func Wrap(class, err error) error {
	if err == nil {
		return nil
	}
	return &classed{class: class, err: err}
}

// New makes an error of a class; format may wrap a cause with %w.
func New(class error, format string, args ...any) error {
	return &classed{class: class, err: fmt.Errorf(format, args...)}
}

type hinted struct {
	err  error
	hint string
}

func (h *hinted) Error() string { return h.err.Error() }
func (h *hinted) Unwrap() error { return h.err }

// Hint attaches a remedy for the operator. A nil err stays nil.
func Hint(err error, hint string) error {
	if err == nil {
		return nil
	}
	return &hinted{err: err, hint: hint}
}

// HintOf returns the outermost hint in err's chain, or "".
func HintOf(err error) string {
	var h *hinted
	if errors.As(err, &h) {
		return h.hint
	}
	return ""
}

type undone struct {
	err  error
	what string
}

func (u *undone) Error() string { return u.err.Error() }
func (u *undone) Unwrap() error { return u.err }

// Undone attaches the state after a failed operation was undone, in words for the
// operator: "VM web is as it was". undoing is the error of undoing; if there is
// one, nothing is attached. A nil err stays nil.
func Undone(err, undoing error, what string) error {
	switch {
	case err == nil:
		return undoing
	case undoing != nil:
		return &undone{errors.Join(err, undoing), ""}
	}
	return &undone{err, what}
}

// UndoneOf returns the outermost such text in err's chain, or "".
func UndoneOf(err error) string {
	var u *undone
	if errors.As(err, &u) {
		return u.what
	}
	return ""
}

// OnlyCanceled reports whether err is nothing but a cancelled context: no other
// failure hides in it.
func OnlyCanceled(err error) bool {
	switch u := err.(type) {
	case *classed:
		return OnlyCanceled(u.err)
	case interface{ Unwrap() error }:
		return u.Unwrap() != nil && OnlyCanceled(u.Unwrap())
	case interface{ Unwrap() []error }:
		for _, e := range u.Unwrap() {
			if e != Interrupted && !OnlyCanceled(e) {
				return false
			}
		}
		return len(u.Unwrap()) > 0
	}
	return errors.Is(err, context.Canceled)
}

// Code is the exit code of the command line for err.
func Code(err error) int {
	switch {
	case err == nil:
		return 0
	case errors.Is(err, Interrupted), errors.Is(err, context.Canceled):
		return 130
	case errors.Is(err, Usage):
		return 2
	case errors.Is(err, NotFound):
		return 3
	case errors.Is(err, Conflict):
		return 4
	case errors.Is(err, Damaged):
		return 5
	case errors.Is(err, Incompatible):
		return 6
	case errors.Is(err, Busy):
		return 7
	case errors.Is(err, NoSpace), errors.Is(err, syscall.ENOSPC), errors.Is(err, syscall.EDQUOT):
		return 8
	default:
		return 1
	}
}
