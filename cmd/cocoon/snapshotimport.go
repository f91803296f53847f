package main

import (
	"context"
	"os"
	"strings"

	"github.com/spf13/cobra"
	"golang.org/x/term"

	"github.com/cocoonv2/cocoon/internal/base/failure"
	"github.com/cocoonv2/cocoon/internal/engine/capture"
	"github.com/cocoonv2/cocoon/internal/engine/registry"
	"github.com/cocoonv2/cocoon/internal/engine/vm"
	"github.com/cocoonv2/cocoon/store"
)

// importFlags of `snapshot import`; which of them fit depends on what SRC is.
type importFlags struct {
	meta       store.Meta
	labels     []string
	parent     string
	trustPaths bool
	boot       vm.BootPaths
	trustArgs  bool
	newID      bool
	tag        string
}

func newSnapshotImport(a *app) *cobra.Command {
	var f importFlags
	c := &cobra.Command{
		Use: "import DIR|FILE|-", Short: "Take in an OCI image layout (folder, tar, tar.gz, tar.zst, stream), or a Cloud Hypervisor snapshot folder made by hand",
		Args: needArgs(cobra.ExactArgs(1)),
		RunE: func(c *cobra.Command, args []string) error {
			var err error
			if f.meta.Labels, err = parseLabels(f.labels); err != nil {
				return err
			}
			take := a.importOCI
			if args[0] != "-" && isFolder(args[0]) && !registry.IsLayout(args[0]) {
				take = a.importCH
			}
			sn, err := take(c.Context(), args[0], &f)
			if err != nil {
				return err
			}
			a.out.Line("%s", sn.ID)
			return nil
		},
	}
	fl := c.Flags()
	fl.StringVar(&f.meta.Name, "name", "", "name of the new snapshot")
	fl.StringVar(&f.meta.Description, "description", "", "free text")
	listVar(fl, &f.labels, "label", "`key=value`, repeatable")
	fl.StringVar(&f.parent, "parent", "", "of a folder: snapshot whose pages may be reused: auto, none or a ref (default none)")
	fl.BoolVar(&f.trustPaths, "trust-paths", false, "of a folder: also read disks and boot files outside it that its config.json names")
	fl.StringVar(&f.boot.Kernel, "kernel", "", "of a folder: what its VM boots from, this kernel `file` instead of the one that config.json names")
	fl.StringVar(&f.boot.Firmware, "firmware", "", "of a folder: what its VM boots from, this firmware `file`")
	fl.StringVar(&f.boot.Initramfs, "initramfs", "", "of a folder: what its VM boots from, this initramfs `file`")
	fl.StringVar(&f.tag, "tag", "", "of a layout that holds several snapshots: which")
	fl.BoolVar(&f.trustArgs, "trust-args", false, "of a layout: also a snapshot whose VM has arguments of its own for the VMM")
	fl.BoolVar(&f.newID, "new-id", false, "of a layout: "+newIDHelp)
	return c
}

const newIDHelp = "where its id is taken here by other contents, give the snapshot a new one"

func isFolder(path string) bool {
	fi, err := os.Stat(path)
	return err == nil && fi.IsDir()
}

func (a *app) importCH(ctx context.Context, dir string, f *importFlags) (*store.Snapshot, error) {
	if f.tag != "" || f.trustArgs || f.newID {
		return nil, failure.New(failure.Usage, "--tag, --trust-args and --new-id are for an OCI image layout, %s is a folder without oci-layout", dir)
	}
	r, err := a.openNew(ctx)
	if err != nil {
		return nil, err
	}
	m := a.meter("packing")
	defer m.end()
	return r.Importer().Import(ctx, capture.ImportRequest{
		Dir: dir, Name: f.meta.Name, Description: f.meta.Description, Labels: f.meta.Labels,
		Parent: f.parent, TrustPaths: f.trustPaths, Boot: f.boot, OnNote: a.remark, OnBytes: m.update,
	})
}

// remark says what is no failure, and what can be done about it.
func (a *app) remark(text, hint string) {
	a.errOut.Line("cocoon: %s", text)
	a.errOut.Line("hint: %s", hint)
}

func (a *app) importOCI(ctx context.Context, src string, f *importFlags) (*store.Snapshot, error) {
	if f.parent != "" || f.trustPaths || f.boot.Any() {
		return nil, failure.New(failure.Usage, "--parent, --trust-paths, --kernel, --firmware and --initramfs are for a Cloud Hypervisor snapshot folder")
	}
	if src == "-" && term.IsTerminal(int(os.Stdin.Fd())) {
		return nil, failure.New(failure.Usage, "import - reads an archive from stdin, which is a terminal")
	}
	m, err := a.mover(ctx, a.openNew, transferFlags{})
	if err != nil {
		return nil, err
	}
	progress := a.meter("taking in")
	defer progress.end()
	m.OnBytes = progress.update
	o := registry.PullOptions{Meta: f.meta, TrustArgs: f.trustArgs, NewID: f.newID}
	switch {
	case src == "-":
		return m.ImportStream(ctx, os.Stdin, f.tag, o)
	case isFolder(src):
		return m.ImportDir(ctx, src, f.tag, o)
	}
	return m.ImportFile(ctx, src, f.tag, o)
}

func newSnapshotPull(a *app) *cobra.Command {
	var f transferFlags
	var trustArgs, newID bool
	c := &cobra.Command{
		Use: "pull REGISTRY/NAME:TAG [NAME]", Short: "Take in a snapshot from an OCI registry; what is here is not fetched again",
		Args: needArgs(cobra.RangeArgs(1, 2)),
		RunE: func(c *cobra.Command, args []string) error {
			o := registry.PullOptions{TrustArgs: trustArgs, NewID: newID}
			if len(args) == 2 {
				o.Meta.Name = args[1]
			}
			sn, err := a.pull(c.Context(), args[0], f, o)
			if err != nil {
				return err
			}
			a.out.Line("%s", sn.ID)
			return nil
		},
	}
	f.add(c)
	c.Flags().BoolVar(&trustArgs, "trust-args", false, "also a snapshot whose VM has arguments of its own for the VMM")
	c.Flags().BoolVar(&newID, "new-id", false, newIDHelp)
	return c
}

func (a *app) pull(ctx context.Context, ref string, f transferFlags, o registry.PullOptions) (*store.Snapshot, error) {
	m, err := a.mover(ctx, a.openNew, f)
	if err != nil {
		return nil, err
	}
	progress := a.meter("pulling")
	defer progress.end()
	m.OnBytes = progress.update
	return m.Pull(ctx, ref, o)
}

// localSnapshot answers a reference of this store; REGISTRY/NAME:TAG is pulled
// first, which costs one question when it is here already.
func (a *app) localSnapshot(ctx context.Context, ref string) (string, error) {
	if !isRemote(ref) {
		return ref, nil
	}
	sn, err := a.pull(ctx, ref, transferFlags{}, registry.PullOptions{})
	if err != nil {
		return "", err
	}
	return string(sn.ID), nil
}

// isRemote tells REGISTRY/NAME:TAG from a reference of this store.
func isRemote(ref string) bool { return strings.Contains(ref, "/") }
