package main

import (
	"context"

	"github.com/spf13/cobra"

	"github.com/cocoonv2/cocoon/internal/base/failure"
	"github.com/cocoonv2/cocoon/store"
	"github.com/cocoonv2/cocoon/store/layout"
	"github.com/cocoonv2/cocoon/store/repair"
)

func newSystemRepair(a *app) *cobra.Command {
	var format, from string
	var plainHTTP bool
	var o repair.Options
	c := &cobra.Command{
		Use: "repair", Short: "Read everything back, make damaged packs whole, rebuild what is derived", Args: needArgs(cobra.NoArgs),
		RunE: func(c *cobra.Command, _ []string) error {
			if err := checkReportFormat(format); err != nil {
				return err
			}
			made, err := a.remake(c.Context(), o.DryRun)
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
			o.Reindex = r.Reindex
			o.Copies = r.RawCopies
			if from != "" {
				m, err := moverOf(r, transferFlags{plainHTTP: plainHTTP})
				if err == nil {
					err = m.Repository(from)
				}
				if err != nil {
					return err
				}
				o.Fetch = m.BlobSource(from)
			}
			rep, err := repair.Run(c.Context(), r.Store, o)
			if err != nil {
				return err
			}
			rep.Repaired = append(made, rep.Repaired...)
			err = a.report(rep, format)
			if n := len(rep.Left); err == nil && n > 0 {
				err = failure.Hint(failure.New(failure.Damaged, "%d objects could not be repaired", n), "import or pull the snapshots again, or remove them")
			}
			return err
		},
	}
	reportFormat(c, &format)
	c.Flags().StringVar(&from, "from", "", "fetch what is damaged from `REGISTRY/NAME`, where the snapshots were pushed")
	c.Flags().BoolVar(&plainHTTP, "plain-http", false, "speak http to the registry (loopback ones are spoken to so anyway)")
	c.Flags().BoolVar(&o.DryRun, "dry-run", false, "say what would be repaired, change nothing")
	return c
}

// remake comes before the store is opened, which is refused until then.
func (a *app) remake(ctx context.Context, dryRun bool) ([]repair.Action, error) {
	made, err := layout.Remake(ctx, a.set("rootDir"), dryRun)
	var actions []repair.Action
	for _, m := range made {
		actions = append(actions, repair.Action{Object: m.Object, What: m.How})
	}
	return actions, err
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
