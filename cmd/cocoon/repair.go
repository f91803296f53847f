package main

import (
	"cmp"

	"github.com/spf13/cobra"

	"github.com/cocoonv2/cocoon/internal/engine/house"
	"github.com/cocoonv2/cocoon/store"
	"github.com/cocoonv2/cocoon/store/repair"
)

func newSystemRepair(a *app) *cobra.Command {
	var format string
	var o house.RepairOptions
	c := &cobra.Command{
		Use: "repair", Short: "Read everything back, repair what is damaged, rebuild what is derived", Args: needArgs(cobra.NoArgs),
		RunE: func(c *cobra.Command, _ []string) error {
			if err := checkReportFormat(format); err != nil {
				return err
			}
			made, err := a.config.Remake(c.Context(), o.DryRun)
			if err != nil {
				return err
			}
			if len(made) > 0 && o.DryRun { // the rest can be looked at when it is there
				return a.report(&repair.Report{DryRun: true, Repaired: made, Left: []repair.Action{}, Released: []store.ID{}, Quarantined: []store.ID{}}, format)
			}
			r, err := a.open(c.Context())
			if err != nil {
				return err
			}
			rep, err := r.Repair(c.Context(), o)
			if rep == nil {
				return err
			}
			rep.Repaired = append(made, rep.Repaired...)
			return cmp.Or(a.report(rep, format), err)
		},
	}
	reportFormat(c, &format)
	c.Flags().StringVar(&o.From, "from", "", "fetch what is damaged from `REGISTRY/NAME`, where the snapshots were pushed")
	c.Flags().BoolVar(&o.PlainHTTP, "plain-http", false, "use http for the registry (loopback registries always do)")
	c.Flags().BoolVar(&o.DryRun, "dry-run", false, "say what would be repaired, change nothing")
	return c
}

func (a *app) report(rep *repair.Report, format string) error {
	if format == "json" {
		return a.out.JSON(rep)
	}
	a.printRepair(rep)
	return nil
}

func (a *app) printRepair(rep *repair.Report) {
	t := a.out.Table()
	verb := map[bool]string{true: "would repair", false: "repaired"}[rep.DryRun]
	for _, x := range rep.Repaired {
		t.Row(verb, x.Object, x.What)
	}
	for _, x := range rep.Left {
		t.Row("left", x.Object, x.What)
	}
	for _, id := range rep.Released {
		t.Row("released", "snapshot "+string(id), "sound again")
	}
	for _, id := range rep.Quarantined {
		t.Row("quarantined", "snapshot "+string(id), "still damaged")
	}
	t.End()
	if rep.Nothing() {
		a.out.Line("nothing to repair")
	}
	for _, x := range rep.Derived {
		a.out.Line("%s %s", x.Object, x.What)
	}
}
