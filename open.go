package cocoon

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"

	"github.com/cocoonv2/cocoon/internal/base/failure"
	"github.com/cocoonv2/cocoon/internal/engine/house"
)

// settle finds the value of every setting, as the command does.
func (o Options) settle() (house.Settings, error) {
	given := map[string]string{}
	for key, value := range o.Settings {
		given[key] = value
	}
	for key, value := range map[string]string{"rootDir": o.RootDir, "runDir": o.RunDir, "hypervisor": o.Hypervisor, "keyFile": o.KeyFile} {
		if value != "" {
			given[key] = value
		}
	}
	return house.Settle(given, os.LookupEnv, o.ConfigFile)
}

// patient returns the context of one call: waits for locks are reported, and
// limited.
func (h *Host) patient(ctx context.Context) context.Context {
	return house.Waiting(ctx, func() house.Settings { return h.settings }, func(text string) { h.log.Warn(text) })
}

// telling receives the progress of a call, nil if it is not wanted.
func (h *Host) telling(what, ref string) func(done, total int64) {
	if h.progress == nil {
		return nil
	}
	return func(done, total int64) { h.progress(what, ref, done, total) }
}

// classed gives the error of a call the class that the command's exit code would
// have, and its remedy to %+v.
func classed(err *error) {
	if *err == nil {
		return
	}
	if errors.Is(*err, failure.NoSpace) || failure.Code(*err) != failure.Code(failure.NoSpace) {
		*err = told{*err}
		return
	}
	*err = told{failure.Wrap(failure.NoSpace, *err)}
}

type told struct{ error }

func (t told) Unwrap() error { return t.error }

// Format adds the remedy to %+v.
func (t told) Format(s fmt.State, verb rune) {
	text := t.Error()
	if hint := failure.HintOf(t.error); verb == 'v' && s.Flag('+') && hint != "" {
		text += " (" + hint + ")"
	}
	if verb == 'q' {
		text = fmt.Sprintf("%q", text)
	}
	_, _ = io.WriteString(s, text)
}
