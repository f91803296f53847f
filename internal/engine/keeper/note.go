package keeper

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"

	"github.com/cocoonv2/cocoon/internal/base/durable"
)

// End is how a VMM ended, exit.json in the run folder. Neither Code nor Signal is
// set if unknown: the keeper that was the VMM's parent had died, and the kernel
// reports them to no one else.
type End struct {
	Target
	At     time.Time `json:"at"`
	Code   *int      `json:"code,omitempty"`
	Signal string    `json:"signal,omitempty"` // SIGKILL
	// Orderly: the VMM had announced its end.
	Orderly bool   `json:"orderly,omitempty"`
	LastLog string `json:"lastLog,omitempty"` // last line of the VMM
}

// endOf is the end of a process of which only the status is known.
func endOf(ws unix.WaitStatus) *End {
	e := &End{At: time.Now().UTC()}
	e.status(ws)
	return e
}

// How says in words how it ended; works on nil.
func (e *End) How() string {
	switch {
	case e != nil && e.Signal != "":
		return "killed by " + e.Signal
	case e != nil && e.Code != nil:
		return fmt.Sprintf("exit code %d", *e.Code)
	}
	return "nobody saw how"
}

func (e *End) status(ws unix.WaitStatus) {
	switch {
	case ws.Exited():
		code := ws.ExitStatus()
		e.Code = &code
	case ws.Signaled():
		e.Signal = unix.SignalName(ws.Signal())
	}
}

// Panic is when and how a guest reported its death while its VMM still runs,
// panic.json in the run folder.
type Panic struct {
	Target
	At   time.Time `json:"at"`
	From string    `json:"from"`           // pvpanic, the device; console, a line of the serial port
	Line string    `json:"line,omitempty"` // that line
}

// ReadEnd returns the end of a VMM whose run folder is dir, nil if not recorded.
func ReadEnd(dir string, of Target) *End {
	var e End
	if !readNote(filepath.Join(dir, endFile), &e) || e.Target != of {
		return nil
	}
	return &e
}

// ReadPanic returns the panic of a VMM's guest, nil if there was none.
func ReadPanic(dir string, of Target) *Panic {
	var p Panic
	if !readNote(filepath.Join(dir, panicFile), &p) || p.Target != of {
		return nil
	}
	return &p
}

// note is what exit.json and panic.json are.
var note = durable.Document{Name: "note of a keeper", Limit: 64 << 10}

// readNote: a missing or torn one counts as none, since nothing depends on it.
func readNote(path string, v any) bool {
	b, err := note.Read(path)
	return err == nil && json.Unmarshal(b, v) == nil
}

// writeNote writes a file completely or not at all. If the run folder is gone,
// none is needed.
func writeNote(path string, v any) error {
	b, err := json.Marshal(v)
	if err == nil {
		err = note.Write(path, b, 0o600)
	}
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	return err
}
