package main

import (
	"errors"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/cocoonv2/cocoon/internal/base/failure"
	"github.com/cocoonv2/cocoon/internal/engine/house"
)

func newSnapshotPrune(a *app) *cobra.Command {
	var dryRun bool
	var format string
	var labels []string
	c := &cobra.Command{
		Use: "prune", Short: "Remove the snapshots that no retention rule keeps, and say why", Args: needArgs(cobra.NoArgs),
		RunE: func(c *cobra.Command, _ []string) error {
			if err := checkReportFormat(format); err != nil {
				return err
			}
			rules, err := a.givenRules(c, labels)
			if err != nil {
				return err
			}
			if !rules.Removes() {
				return failure.Hint(failure.New(failure.Usage, "prune needs at least one rule"),
					"cocoon snapshot prune --keep-last 7; cocoon gc --prune runs the policy of the configuration")
			}
			h, err := a.openStore(c.Context(), false)
			if err != nil {
				return err
			}
			rep, err := h.Prune(c.Context(), rules, dryRun)
			if rep != nil {
				err = errors.Join(err, a.printPrune(rep, format))
			}
			return err
		},
	}
	ruleFlags(c, &labels)
	c.Flags().BoolVar(&dryRun, "dry-run", false, "print every decision, remove nothing")
	reportFormat(c, &format)
	return c
}

func (a *app) printPrune(rep *house.PruneReport, format string) error {
	if format == "json" {
		return a.out.JSON(rep)
	}
	t := a.out.Table()
	gone := 0
	for _, d := range rep.Decisions {
		verb := "kept"
		switch {
		case d.Error != "":
			verb = "not removed"
		case d.Action == "remove" && rep.DryRun:
			verb = "would remove"
		case d.Action == "remove":
			verb = "removed"
		}
		if d.Action == "remove" && d.Error == "" {
			gone++
		}
		t.Row(verb, short(string(d.ID), false), d.Name, d.VM.Name, d.Created.Format(time.RFC3339), strings.Join(d.Reasons, ", "))
	}
	t.End()
	a.out.Line("%s %d of %d snapshots; gc can free up to %s",
		map[bool]string{true: "would remove", false: "removed"}[rep.DryRun], gone, len(rep.Decisions), size(rep.FreeBytes))
	return nil
}
