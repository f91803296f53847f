package main

import (
	"context"
	"os"
	"strings"

	"github.com/spf13/cobra"
	"golang.org/x/term"

	"github.com/cocoonv2/cocoon/internal/base/failure"
	"github.com/cocoonv2/cocoon/internal/engine/house"
	"github.com/cocoonv2/cocoon/internal/engine/registry"
	"github.com/cocoonv2/cocoon/store"
)

func newSnapshotImport(a *app) *cobra.Command {
	var o house.ImportOptions
	var labels []string
	c := &cobra.Command{
		Use: "import DIR|FILE|-", Short: "Import an OCI image layout (folder, tar, tar.gz, tar.zst, stream) or a Cloud Hypervisor snapshot folder",
		Args: needArgs(cobra.ExactArgs(1)),
		RunE: func(c *cobra.Command, args []string) error {
			var err error
			if o.Meta.Labels, err = parseLabels("--label", labels); err != nil {
				return err
			}
			if err := o.Check(args[0]); err != nil {
				return err
			}
			if args[0] == house.FromStream && term.IsTerminal(int(os.Stdin.Fd())) {
				return failure.New(failure.Usage, "import - reads an archive from stdin, which is a terminal")
			}
			h, err := a.openNew(c.Context())
			if err != nil {
				return err
			}
			progress := a.meter("taking in")
			o.OnBytes, o.OnNote = progress.update, a.remark
			sn, err := h.Import(c.Context(), args[0], os.Stdin, o)
			progress.end()
			if err != nil {
				return err
			}
			a.out.Line("%s", sn.ID)
			return nil
		},
	}
	fl := c.Flags()
	fl.StringVar(&o.Meta.Name, "name", "", "name of the new snapshot")
	fl.StringVar(&o.Meta.Description, "description", "", "free text")
	listVar(fl, &labels, "label", "`key=value`, repeatable")
	fl.StringVar(&o.Parent, "parent", "", "for a folder: snapshot whose pages may be reused: auto, none or a ref (default none)")
	fl.BoolVar(&o.TrustPaths, "trust-paths", false, "for a folder: also read disks and boot files outside it that its config.json names")
	fl.StringVar(&o.Boot.Kernel, "kernel", "", "for a folder: boot its VM from this kernel `file` instead of the one in config.json")
	fl.StringVar(&o.Boot.Firmware, "firmware", "", "for a folder: boot its VM from this firmware `file`")
	fl.StringVar(&o.Boot.Initramfs, "initramfs", "", "for a folder: boot its VM from this initramfs `file`")
	fl.StringVar(&o.Tag, "tag", "", "for a layout with several snapshots: which one")
	fl.BoolVar(&o.TrustArgs, "trust-args", false, "for a layout: accept a snapshot whose VM has its own arguments for the VMM")
	fl.BoolVar(&o.NewID, "new-id", false, "for a layout: "+newIDHelp)
	return c
}

const newIDHelp = "if its id is taken here by other contents, give the snapshot a new one"

// remark reports what is no failure, with the remedy.
func (a *app) remark(text, hint string) {
	a.errOut.Line("cocoon: %s", text)
	a.errOut.Line("hint: %s", hint)
}

func newSnapshotPull(a *app) *cobra.Command {
	var t house.Transfer
	var trustArgs, newID bool
	c := &cobra.Command{
		Use: "pull REGISTRY/NAME:TAG [NAME]", Short: "Fetch a snapshot from an OCI registry; what is already here is not fetched again",
		Args: needArgs(cobra.RangeArgs(1, 2)),
		RunE: func(c *cobra.Command, args []string) error {
			o := registry.PullOptions{TrustArgs: trustArgs, NewID: newID}
			if len(args) == 2 {
				o.Meta.Name = args[1]
			}
			sn, err := a.pull(c.Context(), args[0], o, t)
			if err != nil {
				return err
			}
			a.out.Line("%s", sn.ID)
			return nil
		},
	}
	transferFlags(c, &t)
	c.Flags().BoolVar(&trustArgs, "trust-args", false, "accept a snapshot whose VM has its own arguments for the VMM")
	c.Flags().BoolVar(&newID, "new-id", false, newIDHelp)
	return c
}

func (a *app) pull(ctx context.Context, ref string, o registry.PullOptions, t house.Transfer) (*store.Snapshot, error) {
	if err := t.Check(); err != nil {
		return nil, err
	}
	h, err := a.openNew(ctx)
	if err != nil {
		return nil, err
	}
	progress := a.meter("pulling")
	defer progress.end()
	t.OnBytes = progress.update
	return h.Pull(ctx, ref, o, t)
}

// localSnapshot resolves a reference in this store; REGISTRY/NAME:TAG is pulled
// first, which costs one request if it is already here.
func (a *app) localSnapshot(ctx context.Context, ref string) (string, error) {
	if !isRemote(ref) {
		return ref, nil
	}
	sn, err := a.pull(ctx, ref, registry.PullOptions{}, house.Transfer{})
	if err != nil {
		return "", err
	}
	return string(sn.ID), nil
}

// isRemote distinguishes REGISTRY/NAME:TAG from a reference of this store.
func isRemote(ref string) bool { return strings.Contains(ref, "/") }
