// Command cocoon keeps snapshots of Cloud Hypervisor microVMs: it saves running
// VMs, rebuilds them anywhere, and collects what nothing names any more.
//
// This folder holds flags, wiring and printing; the work is done below it. The
// command line is described in docs/cli.md.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log"
	"os"
	"os/signal"
	"runtime/debug"
	"syscall"

	"github.com/cocoonv2/cocoon/internal/failure"
)

// memoryLimit is what the collector of Go tries to stay below, bytes.
const memoryLimit = 192 << 20

// version is set by the linker.
var version = "dev"

func main() { os.Exit(Main()) }

// Main runs the program and returns its exit code; tests call it in-process.
func Main() int {
	// A command lives for an instant: collect less often, within bounds.
	debug.SetGCPercent(400)
	debug.SetMemoryLimit(memoryLimit)
	log.SetOutput(io.Discard) // net/http prints there what a VMM says out of turn
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	defer stop()
	return run(ctx, os.Args[1:], os.Stdout, os.Stderr)
}

func run(ctx context.Context, args []string, out, errOut io.Writer) int {
	a := &app{out: out, errOut: errOut, env: os.LookupEnv}
	root := newRoot(a)
	root.SetArgs(args)
	root.SetOut(out)
	root.SetErr(errOut)
	err := root.ExecuteContext(ctx)
	if err == nil {
		return 0
	}
	if ctx.Err() != nil && !errors.Is(err, failure.Interrupted) {
		err = failure.Wrap(failure.Interrupted, err)
	}
	fmt.Fprintln(errOut, "cocoon:", oneLine(err))
	if hint := failure.HintOf(err); hint != "" {
		fmt.Fprintln(errOut, "hint:", hint)
	}
	return failure.Code(err)
}
