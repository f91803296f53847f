package main

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/cocoonv2/cocoon/internal/test/networktest"
	"github.com/cocoonv2/cocoon/network"
)

// network measures attachments with Debian's plugins, in namespaces of its own:
// this program once more, of which this is the only figure.
func (b *bench) network() error {
	if os.Geteuid() != 0 || networktest.Plugins() == "" {
		fmt.Fprintln(os.Stderr, "bench: no network figures: they need root and CNI plugins in", networktest.PluginDirs)
		return nil
	}
	code, err := networktest.Again(os.Args[1:]...)
	if err == nil && code != 0 {
		err = fmt.Errorf("network figures: exit code %d", code)
	}
	return err
}

// attachments is the body of network.
func (b *bench) attachments() error {
	if err := networktest.Prepare(); err != nil {
		return err
	}
	conf := filepath.Join(b.work, "conf")
	err := errors.Join(os.Mkdir(conf, 0o700),
		networktest.Conflist(filepath.Join(conf, "bench.conflist"), networktest.Bridge{Name: "bench", Subnet: "10.99.0.0/16"}))
	if err != nil {
		return err
	}
	h := network.Host{CacheDir: filepath.Join(b.work, "network"), ConfDirs: []string{conf}}
	remembered := &network.Guest{
		MAC: "02:00:00:00:16:01", IPs: []netip.Prefix{netip.MustParsePrefix("10.1.0.5/16")},
		Gateways: []netip.Addr{netip.MustParseAddr("10.1.0.1")}, GatewayMAC: "02:aa:00:00:00:01",
	}
	fresh := network.Request{Network: "bench", Identity: network.Fresh, Guest: remembered}
	var off []time.Duration
	for _, kind := range []struct {
		name string
		r    network.Request
	}{{"keep", network.Request{Network: "bench"}}, {"fresh", fresh}} {
		on, gone, err := attachSeries(h, kind.r, 10)
		if err != nil {
			return err
		}
		off = append(off, gone...)
		row("attach an interface, "+kind.name, ms(median(on)), "", "", "≤ 60 ms")
	}
	row("detach it", ms(median(off)), "", "", "≤ 80 ms")
	ten, err := attachTen(h, fresh)
	row("attach 10 fresh clones at once", ms(ten), "", "", "≤ 1 s")
	return err
}

func attachSeries(h network.Host, r network.Request, n int) (on, off []time.Duration, err error) {
	ctx := context.Background()
	r.VM = vmID(0)
	for range n {
		start := time.Now()
		a, err := h.Attach(ctx, r)
		if err != nil {
			return nil, nil, err
		}
		attached := time.Now()
		if err := h.Detach(ctx, *a); err != nil {
			return nil, nil, err
		}
		on, off = append(on, attached.Sub(start)), append(off, time.Since(attached))
	}
	return on, off, nil
}

func attachTen(h network.Host, r network.Request) (time.Duration, error) {
	g, ctx := errgroup.WithContext(context.Background())
	start := time.Now()
	for i := range 10 {
		g.Go(func() error {
			one := r
			one.VM = vmID(i + 1)
			_, err := h.Attach(ctx, one)
			return err
		})
	}
	err := g.Wait()
	took := time.Since(start)
	for i := range 10 {
		err = errors.Join(err, h.RemoveVM(context.Background(), vmID(i+1)))
	}
	return took, err
}

func vmID(n int) string { return fmt.Sprintf("%012x%020x", n, n) }

func median(all []time.Duration) time.Duration {
	slices.Sort(all)
	return all[len(all)/2]
}
