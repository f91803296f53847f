package main

import (
	"errors"
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	"github.com/cocoonv2/cocoon/internal/base/failure"
	"github.com/cocoonv2/cocoon/store/repair"
)

func newSnapshotVerify(a *app) *cobra.Command {
	var all bool
	var readData string
	var o repair.VerifyOptions
	c := &cobra.Command{
		Use: "verify [SNAPSHOT…]", Short: "Check structure, and with --read-data every byte", Args: needArgs(snapshotsOrAll(&all)), ValidArgsFunction: a.completeSnapshots,
		RunE: func(c *cobra.Command, args []string) error {
			if err := parseSlice(readData, &o); err != nil {
				return err
			}
			h, err := a.openStore(c.Context(), false)
			if err != nil {
				return err
			}
			ids, unknown := resolveAll(c.Context(), h.Store, args)
			if len(ids) == 0 && unknown != nil {
				return unknown // of none, all would be verified
			}
			rep, err := h.Verify(c.Context(), ids, o)
			if err != nil {
				return errors.Join(err, unknown)
			}
			return errors.Join(a.out.JSON(rep), damageFound(rep), unknown)
		},
	}
	f := c.Flags()
	f.BoolVar(&all, "all", false, "every snapshot of the store")
	f.StringVar(&readData, "read-data", "", "read back and hash every blob, or with `n/t` the n-th of t slices")
	f.Lookup("read-data").NoOptDefVal = "1/1"
	f.BoolVar(&o.Quarantine, "quarantine", false, "mark the snapshots that damage affects: nothing restores them until they are sound again")
	return c
}

func snapshotsOrAll(all *bool) cobra.PositionalArgs {
	return func(_ *cobra.Command, args []string) error {
		switch {
		case *all && len(args) > 0:
			return errors.New("verify takes snapshots or --all, not both")
		case !*all && len(args) == 0:
			return errors.New("verify needs snapshots or --all")
		}
		return nil
	}
}

func damageFound(rep *repair.VerifyReport) error {
	n := len(rep.Damaged)
	if n == 0 {
		return nil
	}
	return failure.Hint(failure.New(failure.Damaged, "%d damaged objects", n), "run cocoon system repair")
}

// parseSlice reads n/t.
func parseSlice(s string, o *repair.VerifyOptions) error {
	if s == "" {
		return nil
	}
	n, t, ok := strings.Cut(s, "/")
	var err1, err2 error
	o.Part, err1 = strconv.Atoi(n)
	o.Parts, err2 = strconv.Atoi(t)
	if !ok || err1 != nil || err2 != nil || o.Part < 1 || o.Parts < o.Part || o.Parts > 1<<20 {
		return failure.New(failure.Usage, "--read-data %q: n/t, the n-th of t slices, such as 1/7", s)
	}
	o.ReadData = true
	return nil
}
