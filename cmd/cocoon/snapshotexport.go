package main

import (
	"context"
	"errors"
	"path/filepath"
	"strings"

	"github.com/spf13/cobra"

	"github.com/cocoonv2/cocoon/internal/base/failure"
	"github.com/cocoonv2/cocoon/internal/engine/house"
	"github.com/cocoonv2/cocoon/internal/engine/registry"
)

// transferFlags are shared by what moves snapshots in OCI form.
type transferFlags struct {
	plainHTTP     bool
	concurrency   int
	withoutImages bool
}

func (f *transferFlags) add(c *cobra.Command) {
	c.Flags().BoolVar(&f.plainHTTP, "plain-http", false, "speak http to the registry (loopback ones are spoken to so anyway)")
	c.Flags().IntVar(&f.concurrency, "concurrency", 4, "blobs under way at once")
}

func (f *transferFlags) addImages(c *cobra.Command) {
	c.Flags().BoolVar(&f.withoutImages, "without-images", false, "leave out kernel, firmware and base disks: the other side has them")
}

// mover opens the rooms and gives what moves snapshots.
func (a *app) mover(ctx context.Context, open func(context.Context) (*house.House, error), f transferFlags) (*registry.Mover, error) {
	if f.concurrency < 0 || f.concurrency > 64 {
		return nil, failure.New(failure.Usage, "--concurrency %d: 1 to 64", f.concurrency)
	}
	r, err := open(ctx)
	if err != nil {
		return nil, err
	}
	return moverOf(r, f)
}

func moverOf(r *house.House, f transferFlags) (*registry.Mover, error) {
	m, err := r.Mover()
	if err == nil {
		m.Concurrency, m.PlainHTTP = f.concurrency, f.plainHTTP
	}
	return m, err
}

func newSnapshotPush(a *app) *cobra.Command {
	var f transferFlags
	var format string
	c := &cobra.Command{
		Use: "push SNAPSHOT REGISTRY/NAME:TAG", Short: "Copy a snapshot to an OCI registry; what is there is not sent again",
		Args: needArgs(cobra.ExactArgs(2)), ValidArgsFunction: a.completeSnapshots,
		RunE: func(c *cobra.Command, args []string) error {
			if err := checkReportFormat(format); err != nil {
				return err
			}
			m, err := a.mover(c.Context(), a.open, f)
			if err != nil {
				return err
			}
			progress := a.meter("pushing")
			m.OnBytes = progress.update
			out, err := m.Push(c.Context(), args[0], args[1], !f.withoutImages)
			progress.end()
			if err != nil {
				return err
			}
			return a.printPushed(out, format)
		},
	}
	f.add(c)
	f.addImages(c)
	c.Flags().StringVar(&format, "format", "table", "table (the digest) or json")
	return c
}

func (a *app) printPushed(out *registry.Pushed, format string) error {
	if format == "json" {
		return a.out.JSON(out)
	}
	a.errOut.Line("sent %s of %s", size(out.SentBytes), size(out.Bytes))
	a.out.Line("%s", out.Digest)
	return nil
}

func newSnapshotExport(a *app) *cobra.Command {
	var out, format string
	var f transferFlags
	c := &cobra.Command{
		Use: "export SNAPSHOT -o DIR|FILE.tar|-", Short: "Write an OCI image layout, or a folder that cloud-hypervisor --restore accepts",
		Args: needArgs(cobra.ExactArgs(1)), ValidArgsFunction: a.completeSnapshots,
		RunE: func(c *cobra.Command, args []string) error {
			if strings.TrimSpace(out) == "" {
				return failure.New(failure.Usage, "export needs -o DIR, FILE.tar or -")
			}
			if err := errors.Join(checkOutput(out), a.outsideFolders(out)); err != nil {
				return err
			}
			archive := out == "-" || strings.HasSuffix(out, ".tar")
			switch {
			case format == "":
				format = map[bool]string{true: "oci", false: "ch"}[archive]
			case format != "oci" && format != "ch":
				return failure.New(failure.Usage, "--format %q: oci or ch", format)
			}
			if format == "ch" {
				if archive {
					return failure.New(failure.Usage, "a Cloud Hypervisor snapshot is a folder: give -o DIR, or --format oci")
				}
				return a.exportCH(c.Context(), args[0], out)
			}
			return a.exportOCI(c.Context(), args[0], out, f)
		},
	}
	c.Flags().StringVarP(&out, "output", "o", "", "what to make; it must not exist; - is stdout")
	c.Flags().StringVar(&format, "format", "", "oci: an image layout; ch: a Cloud Hypervisor snapshot folder (default: oci for .tar and -, ch for a folder)")
	f.addImages(c)
	return c
}

// archives are endings of names that say that a file is meant.
var archives = []string{".gz", ".tgz", ".zst", ".tzst", ".xz", ".txz", ".bz2", ".tbz", ".tbz2", ".lz4", ".zip", ".7z", ".tar"}

// checkOutput refuses what would become a folder that is called as a file is.
func checkOutput(out string) error {
	if out == "-" || strings.HasSuffix(out, ".tar") {
		return nil
	}
	for _, ending := range archives {
		if strings.HasSuffix(strings.ToLower(strings.TrimRight(out, "/")), ending) {
			return failure.Hint(failure.New(failure.Usage, "-o %s: an export is a folder, FILE.tar, or a tar stream on -", out),
				"packs are compressed already, so give -o FILE.tar; image disks gain from: cocoon snapshot export SNAPSHOT -o - | zstd > FILE.tar.zst, which import reads")
		}
	}
	return nil
}

// outsideFolders refuses an export into the folders of cocoon: gc would take it for
// what was left there, or nobody would.
func (a *app) outsideFolders(out string) error {
	if out == "-" {
		return nil
	}
	abs, err := filepath.Abs(out)
	if err != nil {
		return err
	}
	at, err := lies(nearest(filepath.Dir(abs)))
	for _, name := range []string{"rootDir", "runDir"} {
		own, oerr := lies(a.set(name))
		if err = errors.Join(err, oerr); err == nil && strings.HasPrefix(at+"/", own+"/") {
			return failure.Hint(failure.New(failure.Usage, "-o %s lies in %s, %s of cocoon", out, own, name), "choose a place of its own for it")
		}
	}
	return err
}

func (a *app) exportCH(ctx context.Context, ref, dir string) error {
	r, err := a.open(ctx)
	if err != nil {
		return err
	}
	m := a.meter("writing")
	defer m.end()
	return r.ExportCH(ctx, ref, dir, m.update)
}

func (a *app) exportOCI(ctx context.Context, ref, out string, f transferFlags) error {
	m, err := a.mover(ctx, a.open, f)
	if err != nil {
		return err
	}
	progress := a.meter("writing")
	defer progress.end()
	m.OnBytes = progress.update
	switch {
	case out == "-":
		_, err = m.ExportTar(ctx, ref, a.out.Raw(), !f.withoutImages)
	case strings.HasSuffix(out, ".tar"):
		_, err = m.ExportTarFile(ctx, ref, out, !f.withoutImages)
	default:
		_, err = m.ExportDir(ctx, ref, out, !f.withoutImages)
	}
	return err
}
