package main

import (
	"runtime"
	"strings"

	"github.com/spf13/cobra"

	"github.com/cocoonv2/cocoon/internal/base/clone"
	"github.com/cocoonv2/cocoon/internal/base/config"
	"github.com/cocoonv2/cocoon/internal/base/hostfacts"
	"github.com/cocoonv2/cocoon/internal/base/screen"
)

func newVersion(a *app) *cobra.Command {
	return &cobra.Command{
		Use: "version", Short: "Print the version", Args: needArgs(cobra.NoArgs),
		RunE: func(*cobra.Command, []string) error {
			a.out.Line("cocoon %s (%s, %s/%s)", version, runtime.Version(), runtime.GOOS, runtime.GOARCH)
			return nil
		},
	}
}

func newConfig(a *app) *cobra.Command {
	c := &cobra.Command{Use: "config", Short: "Settings and where they come from", Args: cobra.ArbitraryArgs, RunE: groupHelp}
	c.AddCommand(&cobra.Command{
		Use: "show", Short: "Print each setting, its value and its origin", Args: needArgs(cobra.NoArgs),
		RunE: func(*cobra.Command, []string) error {
			for _, s := range config.Settings() {
				v := a.config[s.Key]
				a.out.Line("%s: %q  # %s", v.Key, v.Value, v.Origin)
			}
			return nil
		},
	})
	return c
}

func newSystem(a *app) *cobra.Command {
	c := &cobra.Command{Use: "system", Short: "The store and the host", Args: cobra.ArbitraryArgs, RunE: groupHelp}
	c.AddCommand(newSystemInit(a), newSystemInfo(a), newSystemDF(a), newSystemDoctor(a), newSystemRepair(a), newSystemKey(a))
	return c
}

func newSystemInit(a *app) *cobra.Command {
	return &cobra.Command{
		Use: "init", Short: "Create the store if there is none; print its id", Args: needArgs(cobra.NoArgs),
		RunE: func(c *cobra.Command, _ []string) error {
			h, err := a.openStore(c.Context(), true)
			if err != nil {
				return err
			}
			m, err := h.Store.Owner(c.Context())
			if err != nil {
				return err
			}
			a.out.Line("%s", m.Store)
			return nil
		},
	}
}

type systemInfo struct {
	Version    string `json:"version"`
	RootDir    string `json:"rootDir"`
	RunDir     string `json:"runDir"`
	FreeBytes  int64  `json:"freeBytes"`
	Reflink    bool   `json:"reflink"`
	Hypervisor string `json:"hypervisor"`
	Snapshots  int    `json:"snapshots"`
	VMs        int    `json:"vms"`
	Images     int    `json:"images"`
}

func newSystemInfo(a *app) *cobra.Command {
	var format string
	c := &cobra.Command{
		Use: "info", Short: "Folders, free space, reflinks, VMM version, counts", Args: needArgs(cobra.NoArgs),
		RunE: func(c *cobra.Command, _ []string) error {
			if err := checkReportFormat(format); err != nil {
				return err
			}
			i, err := a.info(c)
			if err != nil {
				return err
			}
			if format == "json" {
				return a.out.JSON(i)
			}
			a.printInfo(i)
			return nil
		},
	}
	reportFormat(c, &format)
	return c
}

func (a *app) printInfo(i *systemInfo) {
	a.out.Line("version:     %s", i.Version)
	a.out.Line("root dir:    %s (%s free, reflink %v)", i.RootDir, size(i.FreeBytes), i.Reflink)
	a.out.Line("run dir:     %s", i.RunDir)
	a.out.Line("hypervisor:  %s", i.Hypervisor)
	a.out.Line("snapshots:   %d", i.Snapshots)
	a.out.Line("vms:         %d", i.VMs)
	a.out.Line("images:      %d", i.Images)
}

func (a *app) info(c *cobra.Command) (*systemInfo, error) {
	ctx := c.Context()
	r, err := a.open(ctx)
	if err != nil {
		return nil, err
	}
	i := &systemInfo{Version: version, RootDir: r.Store.Root(), RunDir: a.set("runDir"), Reflink: clone.CanReflink(r.Store.Root())}
	if i.FreeBytes, _, err = hostfacts.FreeBytes(r.Store.Root()); err != nil {
		return nil, err
	}
	if i.Hypervisor, err = a.config.VMMBuild(ctx); err != nil {
		i.Hypervisor = "none: " + oneLine(err)
	}
	snaps, err := r.Store.Index().Summaries(ctx)
	if err != nil {
		return nil, err
	}
	vms, err := r.VMs.List(ctx)
	if err != nil {
		return nil, err
	}
	images, err := r.Images.List(ctx)
	i.Snapshots, i.VMs, i.Images = len(snaps), len(vms), len(images)
	return i, err
}

func (a *app) completeVMs(c *cobra.Command, _ []string, prefix string) ([]string, cobra.ShellCompDirective) {
	r, err := a.open(c.Context())
	if err != nil {
		return nil, cobra.ShellCompDirectiveNoFileComp
	}
	vms, err := r.VMs.List(c.Context())
	if err != nil {
		return nil, cobra.ShellCompDirectiveError
	}
	var out []string
	for _, v := range vms {
		if strings.HasPrefix(v.Name, prefix) {
			out = append(out, screen.Safe(v.Name)+"\t"+screen.Safe(string(v.State)))
		}
	}
	return out, cobra.ShellCompDirectiveNoFileComp
}

func (a *app) completeSnapshots(c *cobra.Command, _ []string, prefix string) ([]string, cobra.ShellCompDirective) {
	st, err := a.store(c.Context())
	if err != nil {
		return nil, cobra.ShellCompDirectiveNoFileComp
	}
	all, err := st.Index().Summaries(c.Context())
	if err != nil {
		return nil, cobra.ShellCompDirectiveError
	}
	var out []string
	for _, s := range all {
		ref := s.Name
		if ref == "" {
			ref = string(s.ID[:12])
		}
		if strings.HasPrefix(ref, prefix) {
			out = append(out, screen.Safe(ref)+"\tof "+screen.Safe(s.VM.Name))
		}
	}
	return out, cobra.ShellCompDirectiveNoFileComp
}
