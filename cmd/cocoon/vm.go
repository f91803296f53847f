package main

import (
	"context"
	"errors"
	"io"
	"os"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/cocoonv2/cocoon/internal/base/config"
	"github.com/cocoonv2/cocoon/internal/base/failure"
	"github.com/cocoonv2/cocoon/internal/base/listing"
	"github.com/cocoonv2/cocoon/internal/engine/house"
	"github.com/cocoonv2/cocoon/internal/engine/vm"
	"github.com/cocoonv2/cocoon/restore"
)

func newVM(a *app) *cobra.Command {
	c := &cobra.Command{Use: "vm", Short: "Virtual machines", Args: cobra.ArbitraryArgs, RunE: groupHelp}
	c.AddCommand(newVMCreate(a), newVMList(a), newVMInspect(a), newVMLogs(a), newVMStart(a), newVMStop(a), newVMSuspend(a), newVMRestore(a), newVMRemove(a),
		vmVerb(a, "pause", "Pause the guest's virtual CPUs", func(ctx context.Context, r *house.House, ref string) error { return r.VMs.Pause(ctx, ref) }),
		vmVerb(a, "resume", "Resume a paused VM", func(ctx context.Context, r *house.House, ref string) error { return r.VMs.Resume(ctx, ref) }),
	)
	return c
}

// groupHelp handles a noun without a verb.
func groupHelp(c *cobra.Command, args []string) error {
	if len(args) > 0 {
		return failure.New(failure.Usage, "unknown command %q for %q", args[0], c.CommandPath())
	}
	return c.Help()
}

func vmVerb(a *app, verb, help string, do func(context.Context, *house.House, string) error) *cobra.Command {
	return &cobra.Command{
		Use: verb + " VM…", Short: help, Args: needArgs(cobra.MinimumNArgs(1)), ValidArgsFunction: a.completeVMs,
		RunE: func(c *cobra.Command, args []string) error {
			r, err := a.open(c.Context())
			if err != nil {
				return err
			}
			return each(args, func(ref string) error { return do(c.Context(), r, ref) })
		},
	}
}

func newVMStop(a *app) *cobra.Command {
	var timeout string
	c := &cobra.Command{
		Use: "stop VM…", Short: "Stop VMs: ACPI button, then shutdown, SIGTERM, SIGKILL", Args: needArgs(cobra.MinimumNArgs(1)), ValidArgsFunction: a.completeVMs,
		RunE: func(c *cobra.Command, args []string) error {
			r, err := a.open(c.Context())
			if err != nil {
				return err
			}
			var o vm.StopOptions
			if timeout != "" {
				if o.Timeout, err = config.ParseDuration("--timeout", timeout); err != nil {
					return err
				}
			}
			return eachAtOnce(args, func(ref string) error { return a.stop(c.Context(), r, ref, o) })
		},
	}
	c.Flags().StringVarP(&timeout, "timeout", "t", "", "how long the guest may take to power itself off ("+settingHelp("vmStopTimeout")+")")
	return c
}

// stop ends one VM and reports how.
func (a *app) stop(ctx context.Context, r *house.House, ref string, o vm.StopOptions) error {
	exit, err := r.VMs.Stop(ctx, ref, o)
	if exit != nil {
		a.errOut.Line("%s: %s", ref, exit)
	}
	return err
}

func newVMStart(a *app) *cobra.Command {
	var o house.StartOptions
	mode := "auto"
	var networks []string
	c := vmVerb(a, "start", "Resume a suspended VM; boot any other from its disks", func(ctx context.Context, r *house.House, ref string) error {
		m := a.meter("restoring")
		defer m.end()
		o.OnBytes = m.update
		o.Mode = restore.Mode(mode)
		var err error
		if o.Networks, err = house.ParseMoves(networks); err != nil {
			return err
		}
		o.OnNetwork = func(n restore.NetworkPlan) { a.errOut.Line("cocoon: %s: %s", ref, n) }
		return r.Start(ctx, ref, o)
	})
	c.Flags().BoolVar(&o.Cold, "cold", false, "boot a suspended VM from its disks and discard its RAM")
	c.Flags().StringVar(&mode, "restore-mode", mode, "how the RAM of a suspended VM is restored, as in vm create")
	c.Flags().StringVar((*string)(&o.Clock), "guest-clock", string(restore.CatchUp), "catch-up: the guest's time of day is right at once; stand-still: its monotonic clock does not jump")
	c.Flags().StringVar(&o.Boot.Kernel, "kernel", "", "boot with this kernel `file` from now on")
	c.Flags().StringVar(&o.Boot.Firmware, "firmware", "", "boot with this firmware `file` from now on")
	c.Flags().StringVar(&o.Boot.Initramfs, "initramfs", "", "boot with this initramfs `file` from now on")
	listVar(c.Flags(), &networks, "network", "new networks for its interfaces: keep, fresh, keep=CNI-NAME, fresh=CNI-NAME, none, tap=NAME or, for a VM that boots, CNI-NAME[,ip=A][,mac=M]; one for all, or one each")
	c.Flags().BoolVar(&o.AllowIncompatible, "allow-incompatible", false, "try to wake it on another VMM version or CPU anyway")
	return c
}

func newVMSuspend(a *app) *cobra.Command {
	return vmVerb(a, "suspend", "Save RAM and end the VMM; start resumes from there", func(ctx context.Context, r *house.House, ref string) error {
		m := a.meter("packing")
		defer m.end()
		return r.Suspend(ctx, ref, m.update)
	})
}

func newVMRemove(a *app) *cobra.Command {
	var o vm.RemoveOptions
	c := vmVerb(a, "rm", "Remove VMs with their disks; snapshots stay", func(ctx context.Context, r *house.House, ref string) error {
		_, err := r.Remove(ctx, ref, o)
		return err
	})
	c.Aliases = []string{"remove"}
	c.Flags().BoolVarP(&o.Force, "force", "f", false, "stop a running VM first")
	c.Flags().BoolVar(&o.ForgetNetwork, "forget-network", false, "also if the plugins of its network cannot undo it; what they keep elsewhere stays")
	return c
}

// vmRow is one element of `vm list --format json`.
type vmRow struct {
	ID         string            `json:"id"`
	Name       string            `json:"name"`
	State      string            `json:"state"`
	Trouble    string            `json:"trouble,omitempty"` // with the VMM: not answering, frozen
	PID        int               `json:"pid"`
	Created    time.Time         `json:"created"`
	Labels     map[string]string `json:"labels,omitempty"`
	Snapshot   string            `json:"snapshot"`
	Image      string            `json:"image"`
	CPUs       int               `json:"cpus"`
	Memory     vmMemory          `json:"memory"`
	Disks      []vmDisk          `json:"disks"`
	Networks   []vmNetwork       `json:"networks"`
	APISocket  string            `json:"apiSocket"`
	Vsock      string            `json:"vsockSocket,omitempty"`
	Restore    *vm.RestoreInfo   `json:"restore,omitempty"`
	Suspend    *vmSuspend        `json:"suspend,omitempty"`
	LastError  string            `json:"lastError,omitempty"`
	Exit       *vm.Exit          `json:"exit,omitempty"`
	Panic      *vmPanic          `json:"panic,omitempty"`
	Hypervisor string            `json:"hypervisorVersion,omitempty"`
}

// vmSuspend is the snapshot of a suspended VM.
type vmSuspend struct {
	Snapshot string    `json:"snapshot"`
	Since    time.Time `json:"since"`
}

type vmMemory struct {
	Bytes int64 `json:"bytes"`
}

type vmDisk struct {
	Serial   string `json:"serial"`
	Path     string `json:"path"`
	Bytes    int64  `json:"bytes"`
	Readonly bool   `json:"readonly"`
	Image    string `json:"image,omitempty"`
}

func rowOf(r *house.House, rec *vm.Record) vmRow {
	row := vmRow{
		ID: rec.ID, Name: rec.Name, State: string(rec.State), Trouble: rec.Trouble, Created: rec.Created.UTC(), Labels: rec.Labels, Snapshot: rec.Snapshot,
		Image: rec.Image, CPUs: rec.CPUs, Memory: vmMemory{rec.MemoryBytes}, Restore: rec.Restore, LastError: rec.LastError, Exit: rec.Exit,
		Disks: []vmDisk{}, Networks: []vmNetwork{},
	}
	if p := rec.Process; p != nil {
		row.PID, row.APISocket, row.Hypervisor, row.Vsock = p.PID, p.APISocket, p.Version, r.VMs.VsockSocket(rec)
	}
	if p := r.VMs.Panic(rec); p != nil {
		row.Panic = &vmPanic{p.At, p.From, p.Line}
	}
	if s := rec.Sleep; s != nil {
		row.Suspend = &vmSuspend{string(s.Snapshot), s.Since}
	}
	for _, d := range rec.Disks {
		row.Disks = append(row.Disks, vmDisk{d.Serial, r.DiskPath(rec, d), d.Bytes, d.Readonly, string(d.Image)})
	}
	for _, n := range rec.Networks {
		row.Networks = append(row.Networks, newVMNetwork(n))
	}
	return row
}

// vmPanic is when and how a guest whose VMM still runs reported a panic.
type vmPanic struct {
	At   time.Time `json:"at"`
	From string    `json:"from"` // pvpanic or console
	Line string    `json:"line,omitempty"`
}

// state is for display, with details: "running (not answering)", "running
// (panicked)", "error (SIGKILL)".
func (v vmRow) state() string {
	why := v.Trouble
	switch {
	case why != "":
	case v.Panic != nil:
		why = "panicked"
	case v.Exit != nil:
		why = v.Exit.Short()
	}
	if why == "" {
		return v.State
	}
	return v.State + " (" + why + ")"
}

func newVMList(a *app) *cobra.Command {
	var o listing.Options
	c := &cobra.Command{
		Use: "list", Aliases: []string{"ls"}, Short: "List VMs", Args: needArgs(cobra.NoArgs),
		RunE: func(c *cobra.Command, _ []string) error {
			r, err := a.open(c.Context())
			if err != nil {
				return err
			}
			recs, err := r.VMs.List(c.Context())
			if err != nil {
				return err
			}
			r.VMs.Look(c.Context(), recs...)
			rows := []vmRow{}
			for _, rec := range recs {
				rows = append(rows, rowOf(r, rec))
			}
			return listing.Write(a.out, o, rows, func(v vmRow) string { return v.ID }, vmColumns(&o))
		},
	}
	listFlags(c, &o)
	return c
}

func vmColumns(o *listing.Options) []listing.Column[vmRow] {
	return []listing.Column[vmRow]{
		{Name: "ID", Cell: func(v vmRow) string { return short(v.ID, o.NoTrunc) }, Values: func(v vmRow) []string { return []string{v.ID} }},
		{Name: "NAME", Cell: func(v vmRow) string { return v.Name }},
		{Name: "STATE", Cell: vmRow.state, Values: func(v vmRow) []string { return []string{v.State, v.state()} }},
		{Name: "CPUS", Cell: func(v vmRow) string { return strconv.Itoa(v.CPUs) }, Less: func(x, y vmRow) bool { return x.CPUs < y.CPUs }},
		{Name: "MEMORY", Cell: func(v vmRow) string { return size(v.Memory.Bytes) }, Less: func(x, y vmRow) bool { return x.Memory.Bytes < y.Memory.Bytes }},
		{Name: "IP", Cell: func(v vmRow) string { return strings.Join(v.ips(), ",") }, Values: vmRow.ips},
		{Name: "SNAPSHOT", Cell: func(v vmRow) string { return short(v.Snapshot, o.NoTrunc) }, Values: func(v vmRow) []string { return []string{v.Snapshot} }},
		{Name: "CREATED", Cell: func(v vmRow) string { return ago(v.Created) }, Less: func(x, y vmRow) bool { return x.Created.Before(y.Created) }},
		{Name: "LABEL", Hidden: true, Cell: func(vmRow) string { return "" }, Values: func(v vmRow) []string { return labelValues(v.Labels) }},
	}
}

func labelValues(labels map[string]string) []string {
	out := []string{}
	for k, v := range labels {
		out = append(out, k, k+"="+v)
	}
	return out
}

func newVMInspect(a *app) *cobra.Command {
	return &cobra.Command{
		Use: "inspect VM…", Short: "Everything about VMs, as JSON", Args: needArgs(cobra.MinimumNArgs(1)), ValidArgsFunction: a.completeVMs,
		RunE: func(c *cobra.Command, args []string) error {
			r, err := a.open(c.Context())
			if err != nil {
				return err
			}
			rows := []vmRow{}
			err = each(args, func(ref string) error {
				rec, err := r.VMs.Get(c.Context(), ref)
				if err == nil {
					r.VMs.Look(c.Context(), rec)
					rows = append(rows, rowOf(r, rec))
				}
				return err
			})
			return errors.Join(a.out.JSON(rows), err)
		},
	}
}

func newVMLogs(a *app) *cobra.Command {
	var follow, raw bool
	var tail int
	c := &cobra.Command{
		Use: "logs VM", Short: "The guest's serial output", Args: needArgs(cobra.ExactArgs(1)), ValidArgsFunction: a.completeVMs,
		RunE: func(c *cobra.Command, args []string) error {
			r, err := a.open(c.Context())
			if err != nil {
				return err
			}
			rec, err := r.VMs.Get(c.Context(), args[0])
			if err != nil {
				return err
			}
			f, err := r.VMs.OpenSerial(c.Context(), rec.ID)
			if errors.Is(err, os.ErrNotExist) {
				return failure.New(failure.NotFound, "VM %s has not written to its serial port", rec.Name)
			}
			if err != nil {
				return err
			}
			defer f.Close()
			out := a.out.Raw()
			if a.out.Terminal() && !raw {
				log := a.out.Log()
				defer log.Close()
				out = log
			}
			return copyLog(c.Context(), out, f, tail, follow)
		},
	}
	c.Flags().BoolVarP(&follow, "follow", "f", false, "keep printing until interrupted")
	c.Flags().BoolVar(&raw, "raw", false, "print it exactly as the guest wrote it, even on a terminal")
	c.Flags().IntVarP(&tail, "tail", "n", 0, "only the last `N` lines (0: all)")
	return c
}

func copyLog(ctx context.Context, out io.Writer, f io.Reader, tail int, follow bool) error {
	if tail > 0 {
		b, err := io.ReadAll(f)
		if err != nil {
			return err
		}
		lines := strings.SplitAfter(strings.TrimSuffix(string(b), "\n"), "\n")
		last := strings.Join(lines[max(0, len(lines)-tail):], "") + "\n"
		if _, err := io.WriteString(out, last); err != nil {
			return err
		}
	} else if _, err := io.Copy(out, f); err != nil {
		return err
	}
	for follow {
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(100 * time.Millisecond):
		}
		if _, err := io.Copy(out, f); err != nil {
			return err
		}
	}
	return nil
}
