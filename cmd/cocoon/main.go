// Command cocoon keeps snapshots of Cloud Hypervisor microVMs: it saves running
// VMs, rebuilds them anywhere, and collects what nothing names any more.
//
// This folder holds flags and printing; the work is done below it. The
// command line is described in docs/cli.md.
//
// Words: a verb is a command with its flags (newGC in gc.go, newSnapshotCreate in
// snapshotcreate.go: a file each); the app is what all verbs share, the settings
// and where to print; the house is all rooms over one open store (internal/engine/house).
//
// A command goes this way: [Main] makes the app and the tree of verbs; app.load
// settles each setting (flag, environment, file, default); the verb checks its
// arguments, asks app.store or app.open for what it needs, calls one room, and
// prints. Opening the house lets guests go on that a command which died had left
// paused. The error, if any, comes back to Main, which prints it in one line with
// its hint and turns its class (package failure) into the exit code.
//
// Hidden verbs are processes that a command starts of itself: __guard and
// __rescue let a guest go on when the command dies (guard.go), __materialise
// makes the RAM that the next clone maps (materialise.go), __keeper stays beside
// a VMM as long as that lives (package keeper). __protocol names them to programs
// that use package cocoon, which start them too.
//
// What always holds:
//
//  1. Data goes to stdout, all else to stderr. Both are a screen.Screen, which
//     escapes whatever comes from elsewhere; the streams themselves are named in
//     this file only. That stdout took not all of it makes the command fail.
//  2. Who is given several references tries all of them, and fails if any failed.
//     What a failed verb had made is undone below here, not in this folder.
//  3. SIGINT, SIGTERM, SIGHUP and a reader who goes away cancel the context and
//     nothing else: whoever holds a guest paused sees that and lets it go on.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log"
	"os"
	"runtime/debug"

	"github.com/cocoonv2/cocoon/internal/base/failure"
	"github.com/cocoonv2/cocoon/internal/base/screen"
	"github.com/cocoonv2/cocoon/internal/engine/house"
	"github.com/cocoonv2/cocoon/internal/engine/keeper"
)

// memoryLimit is what the collector of Go tries to stay below, bytes.
const memoryLimit = 192 << 20

// version is set by the linker.
var version = "dev"

func main() { os.Exit(Main()) }

// Main runs the program and returns its exit code; tests call it in-process.
func Main() int {
	// A keeper is started with every VMM: it does without all that follows.
	if len(os.Args) > 1 && os.Args[1] == keeper.Verb {
		return keep()
	}
	if len(os.Args) == 2 && os.Args[1] == house.ProtocolVerb {
		fmt.Fprintln(os.Stdout, house.Protocol)
		return 0
	}
	// What this process inherited is not for those that it starts, some of which
	// outlive it: a lock of whoever called would be held as long as they live.
	if err := keeper.InheritNothing(); err != nil {
		fmt.Fprintln(os.Stderr, "cocoon:", err)
		return 1
	}
	// A command lives for an instant: collect less often, within bounds.
	debug.SetGCPercent(400)
	debug.SetMemoryLimit(memoryLimit)
	log.SetOutput(io.Discard) // net/http prints there what a VMM says out of turn
	ctx, stop := interruptible(os.Args[1:])
	defer stop()
	return run(ctx, os.Args[1:], os.Stdout, os.Stderr)
}

// keep is the process that stays beside a VMM; its stderr is the VMM's log.
func keep() int {
	if err := keeper.Main(os.Args[2:]); err != nil {
		fmt.Fprintln(os.Stderr, "cocoon: keeper:", oneLine(err))
		return 1
	}
	return 0
}

func run(ctx context.Context, args []string, out, errOut io.Writer) int {
	a := &app{out: screen.New(out, "stdout"), errOut: screen.New(errOut, "stderr"), env: os.LookupEnv, done: make(chan struct{})}
	a.stderr, _ = errOut.(*os.File)
	root := newRoot(a)
	root.SetArgs(args)
	root.SetOut(a.out.Text())
	root.SetErr(a.errOut.Text())
	ctx, cancel := untilUnread(a.waiting(ctx), a.out, a.errOut)
	defer cancel()
	defer a.tellsWhatItDoes(ctx)()
	defer close(a.done)
	err := a.answered(interrupted(ctx, root.ExecuteContext(ctx)))
	if err == nil {
		return 0
	}
	if silent(err) {
		return failure.Code(err)
	}
	a.errOut.Line("cocoon: %s", oneLine(err))
	if hint := failure.HintOf(err); hint != "" {
		a.errOut.Line("hint: %s", hint)
	}
	return failure.Code(err)
}

// answered makes a command fail whose answer did not reach stdout, and says that
// the rest of it is done.
func (a *app) answered(err error) error {
	lost := a.out.Err()
	var told *screen.WriteError
	switch {
	case lost == nil || errors.As(err, &told) || errors.Is(err, failure.Interrupted):
		return err
	case err == nil:
		return fmt.Errorf("%w: what was asked for is done, but its answer is lost or cut", lost)
	}
	return errors.Join(err, lost)
}
