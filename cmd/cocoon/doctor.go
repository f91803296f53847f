package main

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"slices"

	"github.com/spf13/cobra"

	"github.com/cocoonv2/cocoon/gc"
	"github.com/cocoonv2/cocoon/internal/base/failure"
	"github.com/cocoonv2/cocoon/internal/base/runfolder"
	"github.com/cocoonv2/cocoon/internal/engine/doctor"
	"github.com/cocoonv2/cocoon/internal/engine/house"
	"github.com/cocoonv2/cocoon/store/keyring"
	"github.com/cocoonv2/cocoon/store/layout"
)

func newSystemDoctor(a *app) *cobra.Command {
	var format string
	var fix bool
	c := &cobra.Command{
		Use: "doctor", Short: "Is this host fit to run, save and rebuild VMs? Exit 1 when something is not", Args: needArgs(cobra.NoArgs),
		RunE: func(c *cobra.Command, _ []string) error {
			if err := checkReportFormat(format); err != nil {
				return err
			}
			if fix {
				if err := a.closeToOthers(); err != nil {
					return err
				}
			}
			looked := a.doctor()
			a.examines = true // which starting a keeper would defeat
			r, err := a.open(c.Context())
			if err != nil && !errors.Is(err, failure.NotFound) {
				return err
			}
			if r != nil {
				ofStore(&looked, r)
			}
			if fix && r != nil {
				if err := a.mend(c.Context(), r, looked); err != nil {
					return err
				}
			}
			found := looked.Examine(c.Context())
			if format == "json" {
				err = a.out.JSON(found)
			} else {
				a.printFindings(found)
			}
			if err != nil {
				return err
			}
			return unfit(found)
		},
	}
	reportFormat(c, &format)
	c.Flags().BoolVar(&fix, "fix", false, "first repair what needs no decision: a store open to others, VMs without a keeper, unguarded images, the index")
	return c
}

// doctor is what can be checked before there is a store.
func (a *app) doctor() doctor.Host {
	return doctor.Host{
		RootDir:    house.Nearest(a.set("rootDir")),
		CNIConfDir: a.config["cniConfDir"].List, CNIBinDir: a.config["cniBinDir"].List,
		VMMVersion: func(ctx context.Context) (string, error) { return a.config.VMMBuild(ctx) },
		IndexOK:    func(context.Context) error { return nil },
		Sealing: func() (*keyring.Key, error) {
			k, _, err := keyring.NewRing(a.set("keyFile")).Sealing()
			return k, err
		},
	}
}

// ofStore adds the existing store.
func ofStore(h *doctor.Host, r *house.House) {
	h.RootDir, h.IndexOK, h.Sealing = r.Store.Root(), r.IndexOK, r.Store.SealingKey
	h.Store, h.Standing, h.Images, h.Unkept = r.Store.Owner, r.VMs.Standing, r.Images.LookAtGuard, unkept(r)
	h.SharedNames = r.SharedNames
	h.Collection = func(ctx context.Context) (lost, doubtful []string, err error) {
		e, err := gc.Examine(ctx, r.Store, house.Roots(r.Store))
		for _, l := range e.Lost {
			lost = append(lost, l.String())
		}
		return lost, e.Disks, err
	}
}

// unkept are the names of the VMs without a keeper.
func unkept(r *house.House) func(context.Context) ([]string, error) {
	return func(ctx context.Context) ([]string, error) {
		ids, err := r.VMs.Unkept(ctx)
		for i, id := range ids {
			if rec, err := r.VMs.Get(ctx, id); err == nil {
				ids[i] = rec.Name
			}
		}
		slices.Sort(ids)
		return ids, err
	}
}

// closeToOthers runs before the store is opened, which is refused while others
// can enter it or the run folder.
func (a *app) closeToOthers() error {
	root, err := filepath.Abs(a.set("rootDir"))
	if err != nil {
		return err
	}
	mended, err := layout.MakePrivate(root)
	run := runfolder.New(a.set("runDir"), nil)
	closed, rerr := run.MakePrivate()
	if closed && rerr == nil {
		mended = append(mended, run.Path())
	}
	err = errors.Join(err, rerr)
	for _, path := range mended {
		a.errOut.Line("%s was open to others; its mode is 0700 now", path)
	}
	return err
}

// mend repairs what can be repaired without a decision of the operator: keepers,
// the guard of the images, and the index, which is derived.
func (a *app) mend(ctx context.Context, r *house.House, h doctor.Host) error {
	r.KeepAll(ctx)
	guarded, err := r.Images.Guard(ctx)
	if err != nil {
		return err
	}
	if guarded > 0 {
		a.errOut.Line("%d image blobs are guarded now: mode 0400, immutable where the file system can", guarded)
	}
	if h.IndexOK(ctx) == nil {
		return nil
	}
	if err := r.Reindex(ctx); err != nil {
		return err
	}
	a.errOut.Line("refs.db is rebuilt from manifests and records")
	return nil
}

func (a *app) printFindings(found []doctor.Finding) {
	t := a.out.Table()
	for _, f := range found {
		t.Row(string(f.Status), f.Name, f.Seen)
		if f.Remedy != "" {
			t.Row("", "", "→ "+f.Remedy)
		}
	}
	t.End()
}

// unfit is the error for a host on which something will not work.
func unfit(found []doctor.Finding) error {
	n := 0
	for _, f := range found {
		if f.Status == doctor.Fail {
			n++
		}
	}
	if n > 0 {
		return fmt.Errorf("%d of %d checks failed", n, len(found))
	}
	return nil
}
