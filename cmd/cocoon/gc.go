package main

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/spf13/cobra"

	"github.com/cocoonv2/cocoon/gc"
	"github.com/cocoonv2/cocoon/gc/garbage"
	"github.com/cocoonv2/cocoon/gc/policy"
	"github.com/cocoonv2/cocoon/internal/base/config"
	"github.com/cocoonv2/cocoon/internal/base/durable"
	"github.com/cocoonv2/cocoon/internal/base/failure"
	"github.com/cocoonv2/cocoon/internal/base/screen"
	"github.com/cocoonv2/cocoon/internal/base/spelling"
	"github.com/cocoonv2/cocoon/internal/engine/house"
)

func newGC(a *app) *cobra.Command {
	var o gc.Options
	var wait, format, metricsFile, threshold string
	var prune, repack bool
	c := &cobra.Command{
		Use: "gc", Short: "Free what nothing references, and say why", Args: needArgs(cobra.NoArgs),
		RunE: func(c *cobra.Command, _ []string) error {
			if err := checkReportFormat(format); err != nil {
				return err
			}
			if err := errors.Join(checkMetricsFile(metricsFile, o.DryRun), checkForgotten(o.ForgetNetworks)); err != nil {
				return err
			}
			var err error
			if wait != "" && wait != "0" {
				if o.Wait, err = config.ParseDuration("--wait", wait); err != nil {
					return err
				}
			}
			if threshold != "" && !repack {
				return failure.New(failure.Usage, "--repack-threshold needs --repack")
			}
			if repack {
				if o.Repack, err = a.repackOptions(threshold); err != nil {
					return err
				}
			}
			start := time.Now()
			rep, err := a.collect(c.Context(), o, prune)
			if metricsFile != "" {
				err = errors.Join(err, a.opened.WriteMetrics(c.Context(), metricsFile, start, rep, err))
			}
			if rep != nil {
				err = errors.Join(err, a.printReport(rep, format, o.Explain))
			}
			return err
		},
	}
	f := c.Flags()
	f.BoolVar(&o.DryRun, "dry-run", false, "print the plan, remove nothing")
	f.BoolVar(&o.Explain, "explain", false, "also list what stays and what holds it")
	f.BoolVar(&prune, "prune", false, "first remove expired snapshots and those that the configured policy does not keep")
	f.BoolVar(&repack, "repack", false, "also rewrite packs of which little is needed any more")
	f.StringVar(&threshold, "repack-threshold", "", "rewrite packs of which less than this `share` is live (default repackThreshold of the configuration, 50%)")
	f.StringVar(&metricsFile, "metrics-file", "", "write Prometheus text about the run and the store to `file`")
	listVar(f, &o.ForgetNetworks, "forget-network", "drop the network of a `VM id` that does not exist even if its plugins cannot undo it, repeatable")
	f.BoolVar(&o.AcceptLoss, "accept-loss", false, "continue although something vanished, and free what only that held; with --dry-run: list it")
	f.StringVar(&wait, "wait", "0", "how long to wait for another gc")
	reportFormat(c, &format)
	return c
}

// checkMetricsFile is called before anything is done: a device or a pipe must not
// be replaced.
func checkMetricsFile(path string, dryRun bool) error {
	if path == "" {
		return nil
	}
	if dryRun {
		return failure.New(failure.Usage, "--metrics-file reports runs, and cannot be combined with --dry-run")
	}
	if err := durable.Target(path); err != nil {
		return fmt.Errorf("--metrics-file: %w", err)
	}
	return nil
}

// checkForgotten refuses what cannot be the id of a VM.
func checkForgotten(ids []string) error {
	for _, id := range ids {
		if len(id) < 3 || !spelling.Hex(id, len(id)) {
			return failure.New(failure.Usage, "--forget-network %q: the id of a VM, as gc prints it, or its first digits", id)
		}
	}
	return nil
}

// repackOptions takes the threshold of the flag, else of the configuration.
func (a *app) repackOptions(flag string) (*gc.Repack, error) {
	name, value := "--repack-threshold", flag
	if value == "" {
		name, value = "repackThreshold", a.set("repackThreshold")
	}
	share, err := house.RepackThreshold(name, value)
	return &gc.Repack{Threshold: share}, err
}

// collect runs gc, with --prune after applying the configured policy.
func (a *app) collect(ctx context.Context, o gc.Options, prune bool) (*gc.Report, error) {
	var rules policy.Rules
	if prune {
		var err error
		if rules, err = a.config.PruneRules(); err != nil {
			return nil, err
		}
	}
	h, err := a.open(ctx)
	switch {
	case err != nil:
		return nil, err
	case prune:
		return h.PruneAndCollect(ctx, rules, o)
	}
	return h.Collect(ctx, o)
}

func (a *app) printReport(rep *gc.Report, format string, explain bool) error {
	if format == "json" {
		return a.out.JSON(rep)
	}
	t := a.out.Table()
	printLost(t, rep)
	removed, ended := "removed", "ended"
	if rep.DryRun {
		removed, ended = "would remove", "would end"
	}
	printRepack(t, rep)
	for _, x := range rep.Removed {
		verb := removed
		if x.Kind == garbage.Process {
			verb = ended
		}
		t.Row(verb, string(x.Kind), short(x.ID, false), size(x.Bytes), x.Reason)
	}
	for _, x := range rep.Failed {
		t.Row("not removed", string(x.Kind), short(x.ID, false), size(x.Bytes), x.Reason)
	}
	for _, x := range rep.Kept {
		t.Row("kept", string(x.Kind), short(x.ID, false), size(x.Bytes), "held by "+joinHolders(x.Holders))
	}
	if explain || rep.DryRun {
		for _, x := range rep.Foreign {
			t.Row("left", string(x.Kind), short(x.ID, false), size(x.Bytes), x.Reason)
		}
	}
	t.End()
	if n := len(rep.Foreign); n > 0 && !explain && !rep.DryRun {
		a.out.Line("left %d objects that belong to other stores; gc --explain lists them", n)
	}
	a.out.Line("%s %s in %d objects; leases: %d live, %d reaped; store locked %.1f ms of %.1f ms",
		map[bool]string{true: "would free", false: "freed"}[rep.DryRun], size(rep.ReclaimedBytes), len(rep.Removed),
		rep.Leases.Live, rep.Leases.Reaped, rep.LockMs, rep.DurationMs)
	if r := rep.Repack; r != nil && rep.DryRun {
		a.out.Line("would rewrite %s of packs to about %s", size(r.OldBytes), size(r.ExpectedBytes))
	} else if r != nil {
		a.out.Line("rewrote %s of packs to %s; %d snapshots have a new manifest", size(r.OldBytes), size(r.WrittenBytes), len(r.Snapshots))
	}
	return nil
}

// printLost first reports what vanished, and what has no owner.
func printLost(t *screen.Table, rep *gc.Report) {
	for _, x := range rep.Lost {
		name := short(x.ID, false)
		if x.Name != "" && x.Name != x.ID {
			name += " " + x.Name
		}
		t.Row("lost", string(x.Kind), name, "", x.Reason)
	}
	for _, x := range rep.Doubtful {
		until := "until it is removed"
		if x.Until != nil {
			until = "until " + x.Until.Format(time.DateTime)
		}
		t.Row("doubtful", string(x.Kind), short(x.ID, false), size(x.Bytes), x.Reason+"; stays "+until)
	}
}

// printRepack reports packs before the removals: a rewritten pack is removed like
// any blob.
func printRepack(t *screen.Table, rep *gc.Report) {
	if rep.Repack == nil {
		return
	}
	for _, p := range rep.Repack.Packs {
		verb := "kept"
		switch {
		case p.Action == "rewrite" && rep.DryRun:
			verb = "would rewrite"
		case p.Action == "rewrite":
			verb = "rewrote"
		}
		t.Row(verb, "pack", short(p.ID, false), size(p.Bytes), fmt.Sprintf("%.0f %% live, %s expected, in %d snapshots: %s",
			100*p.LiveShare, size(p.ExpectedBytes), p.Snapshots, p.Reason))
	}
}

func joinHolders(h []string) string {
	if len(h) > 3 {
		return fmt.Sprintf("%s and %d more", h[0], len(h)-1)
	}
	out := ""
	for i, s := range h {
		if i > 0 {
			out += ", "
		}
		out += s
	}
	return out
}
