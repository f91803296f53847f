package main

import (
	"context"
	"errors"

	"github.com/spf13/cobra"

	"github.com/cocoonv2/cocoon/internal/base/failure"
	"github.com/cocoonv2/cocoon/internal/engine/house"
	"github.com/cocoonv2/cocoon/restore"
	"github.com/cocoonv2/cocoon/store"
)

// verdict is one element of `snapshot check`: can this host rebuild a VM from
// the snapshot, how, and if not, why.
type verdict struct {
	ID         store.ID      `json:"id"`
	Restorable bool          `json:"restorable"`
	Reason     string        `json:"reason,omitempty"`
	Hint       string        `json:"hint,omitempty"`
	Plan       *restore.Plan `json:"plan,omitempty"`
}

func newSnapshotCheck(a *app) *cobra.Command {
	return &cobra.Command{
		Use: "check SNAPSHOT…", Short: "Can this host restore it, and if not, why? Changes nothing",
		Args: needArgs(cobra.MinimumNArgs(1)), ValidArgsFunction: a.completeSnapshots,
		RunE: func(c *cobra.Command, args []string) error {
			ctx := c.Context()
			r, err := a.open(ctx)
			if err != nil {
				return err
			}
			verdicts := []verdict{}
			refused := each(args, func(ref string) error {
				v, err := judge(ctx, r, ref)
				if v != nil {
					verdicts = append(verdicts, *v)
				}
				return err
			})
			return errors.Join(a.out.JSON(verdicts), refused)
		},
	}
}

// judge makes the plan of a restore. A refusal is both in the verdict and in the
// error, which determines the exit code.
func judge(ctx context.Context, r *house.House, ref string) (*verdict, error) {
	id, err := r.Store.Resolve(ctx, ref)
	if err != nil {
		return nil, err
	}
	plan, err := r.Restorer.NewPlan(ctx, restore.Request{Snapshot: string(id)})
	if err != nil {
		return &verdict{ID: id, Reason: oneLine(err), Hint: failure.HintOf(err)}, err
	}
	return &verdict{ID: id, Restorable: true, Plan: plan}, nil
}
