package main

import (
	"context"
	"errors"
	"os"
	"os/signal"
	"slices"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/cocoonv2/cocoon/internal/base/failure"
	"github.com/cocoonv2/cocoon/internal/base/screen"
	"github.com/cocoonv2/cocoon/internal/engine/house"
)

// interruption is why the context of a command ended: what came.
type interruption struct{ by string }

func (i interruption) Error() string { return "interrupted by " + i.by }

// Is: returning the cause of a context means that it was cancelled.
func (i interruption) Is(target error) bool { return target == context.Canceled }

// endings are the signals that end a command: ^C, `kill`, a closed terminal. A
// closed output is handled alike, see run: SIGPIPE itself is ignored, since it
// also comes from a VMM or a registry that closes a connection.
var endings = []os.Signal{syscall.SIGINT, syscall.SIGTERM, syscall.SIGHUP}

// interruptible returns a context that ends at the first of them. ^C after that
// ends the process at once: its guards and the next gc do what it would have
// done. A signal that was ignored from the start, as under nohup, stays ignored,
// and a guard ignores them all.
func interruptible(args []string) (context.Context, context.CancelFunc) {
	signal.Notify(make(chan os.Signal, 1), syscall.SIGPIPE) // a write to a closed pipe just fails
	if len(args) > 0 && slices.Contains([]string{house.GuardVerb, house.RescueVerb, undemoVerb}, args[0]) {
		signal.Notify(make(chan os.Signal, 1), endings...) // to ignore them would be inherited by a VMM
		return context.Background(), func() {}
	}
	come := make(chan os.Signal, 8)
	for _, s := range endings {
		if !signal.Ignored(s) {
			signal.Notify(come, s)
		}
	}
	ctx, cancel := context.WithCancelCause(context.Background())
	go func() {
		for s := range come {
			if s == syscall.SIGINT && ctx.Err() != nil {
				signal.Reset(s)
				_ = unix.Kill(os.Getpid(), syscall.SIGINT)
			}
			cancel(interruption{unix.SignalName(s.(syscall.Signal))})
		}
	}()
	return ctx, func() {
		signal.Stop(come)
		close(come)
		cancel(nil)
	}
}

// untilUnread ends ctx when a stream of the command loses its reader, which ends
// the command as a signal does.
func untilUnread(ctx context.Context, streams ...*screen.Screen) (context.Context, context.CancelFunc) {
	ctx, cancel := context.WithCancelCause(ctx)
	for _, s := range streams {
		s.WhenLost(func(err error) {
			if errors.Is(err, syscall.EPIPE) {
				cancel(interruption{"nobody reading " + s.Name()})
			}
		})
	}
	return ctx, func() { cancel(nil) }
}

// patienceAfter is how long an interrupted command undoes in silence.
const patienceAfter = time.Second

// tellsWhatItDoes reports on a terminal that an interrupted command is still at
// work.
func (a *app) tellsWhatItDoes(ctx context.Context) (stop func() bool) {
	return context.AfterFunc(ctx, func() {
		if !a.errOut.Terminal() {
			return
		}
		select {
		case <-a.done:
		case <-time.After(patienceAfter):
			a.errOut.Line("cocoon: interrupted: undoing what was begun; another ^C leaves that to the guards and gc")
		}
	})
}

// interrupted is the error of a command whose context ended.
func interrupted(ctx context.Context, err error) error {
	var by interruption
	if err == nil || ctx.Err() == nil || !errors.As(context.Cause(ctx), &by) || errors.Is(err, failure.Interrupted) {
		return err
	}
	return &interruptedError{by, err}
}

type interruptedError struct {
	by  interruption
	err error
}

func (e *interruptedError) Unwrap() []error { return []error{failure.Interrupted, e.err} }

// Error says what was interrupted and what the state is now. If more went wrong
// than the interruption it says all of that, with the interruption in place of
// "context canceled".
func (e *interruptedError) Error() string {
	if what := failure.UndoneOf(e.err); what != "" && failure.OnlyCanceled(e.err) {
		return e.by.Error() + "; " + what
	}
	text := strings.ReplaceAll(e.err.Error(), context.Canceled.Error(), e.by.Error())
	if !strings.Contains(text, e.by.Error()) {
		text = e.by.Error() + ": " + text
	}
	return text
}

// silent: a command whose output is no longer read need not report that, as is
// usual in a pipe.
func silent(err error) bool {
	var i *interruptedError
	var lost *screen.WriteError
	return errors.As(err, &i) && errors.As(err, &lost) && !errors.Is(err, context.Canceled)
}
