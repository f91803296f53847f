// Command cocoon manages snapshots of Cloud Hypervisor microVMs: it saves running
// VMs, rebuilds them anywhere, and collects what nothing references any more.
//
// This folder holds flags and printing; the work is done below it. The
// command line is described in docs/cli.md.
//
// Words: a verb is a command with its flags (newGC in gc.go, newSnapshotCreate in
// snapshotcreate.go: one file each); the app is what all verbs share, the
// settings and the output streams; the house is all packages wired over one open
// store (internal/engine/house).
//
// A command runs as follows: [Main] makes the app and the tree of verbs; app.load
// determines each setting (flag, environment, file, default); the verb checks its
// arguments, gets what it needs from app.store or app.open, makes one call, and
// prints. Opening the house resumes guests that a dead command left paused. The
// error, if any, comes back to Main, which prints it in one line with its hint
// and turns its class (package failure) into the exit code.
//
// Hidden verbs are processes that a command starts itself: __guard and __rescue
// resume a guest if the command dies (guard.go), __materialise makes the RAM file
// for the next clone (materialise.go), __keeper stays beside a VMM as long as
// that lives (package keeper). __protocol identifies them to programs that use
// package cocoon, which start them too.
//
// Invariants:
//
//  1. Data goes to stdout, everything else to stderr. Both are a screen.Screen,
//     which escapes all foreign text; only this file names the streams
//     themselves. If stdout does not accept everything, the command fails.
//  2. A verb with several references tries all of them, and fails if any failed.
//     What a failed verb had made is undone by the packages below, not in this
//     folder.
//  3. SIGINT, SIGTERM, SIGHUP and a closed stdout or stderr cancel the context
//     and nothing else: the code that keeps a guest paused notices and resumes
//     it.
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

// memoryLimit is the soft limit of Go's garbage collector, bytes.
const memoryLimit = 192 << 20

// version is set by the linker.
var version = "dev"

func main() { os.Exit(Main()) }

// Main runs the program and returns its exit code; tests call it in-process.
func Main() int {
	// A keeper is started with every VMM: it skips everything that follows.
	if len(os.Args) > 1 && os.Args[1] == keeper.Verb {
		return keep()
	}
	if len(os.Args) == 2 && os.Args[1] == house.ProtocolVerb {
		fmt.Fprintln(os.Stdout, house.Protocol)
		return 0
	}
	// Inherited descriptors must not reach child processes, some of which outlive
	// this one: a lock of the caller would be held as long as they live.
	if err := keeper.InheritNothing(); err != nil {
		fmt.Fprintln(os.Stderr, "cocoon:", err)
		return 1
	}
	// A command lives for an instant: collect less often, within bounds.
	debug.SetGCPercent(400)
	debug.SetMemoryLimit(memoryLimit)
	log.SetOutput(io.Discard) // net/http prints unexpected output of a VMM there
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

// answered fails a command whose output did not reach stdout, and says that its
// work is done.
func (a *app) answered(err error) error {
	lost := a.out.Err()
	var told *screen.WriteError
	switch {
	case lost == nil || errors.As(err, &told) || errors.Is(err, failure.Interrupted):
		return err
	case err == nil:
		return fmt.Errorf("%w: the work is done, but its output is lost or incomplete", lost)
	}
	return errors.Join(err, lost)
}
