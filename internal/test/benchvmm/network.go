package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/cocoonv2/cocoon/internal/test/networktest"
)

// networkSection: how long rebuilt guests take to run when each has a disk and
// an interface on a bridge of Debian's plugins. It is measured by this program
// once more, in namespaces of its own.
func networkSection(ctx context.Context, b *bench) error {
	if networktest.Plugins() == "" {
		fmt.Fprintln(os.Stderr, "bench-vmm: no figures with networks: they need CNI plugins in", networktest.PluginDirs)
		return nil
	}
	if networktest.Isolated() {
		return b.connected(ctx)
	}
	code, err := networktest.Again("-cocoon", b.cocoon, "-vmm", b.vmm, "-sizes", strings.Join(b.sizes, ","),
		"-runs", strconv.Itoa(b.runs), "-dir", b.dir, "-only", "network")
	if err == nil && code != 0 {
		err = fmt.Errorf("in namespaces of its own: exit code %d", code)
	}
	return err
}

// connected is the body of networkSection.
func (b *bench) connected(ctx context.Context) error {
	conf := filepath.Join(b.work, "conf")
	err := errors.Join(os.Mkdir(conf, 0o700),
		networktest.Conflist(filepath.Join(conf, "bench.conflist"), networktest.Bridge{Name: "bench", Subnet: "10.99.0.0/16"}))
	if err != nil {
		return err
	}
	b.env = append(b.env, "COCOON_CNI_CONF_DIR="+conf, "COCOON_CACHE_AHEAD=off")
	fmt.Println("\n## A rebuilt guest runs and has its network")
	fmt.Println("\n| guest | map, cached, its address kept | `--count 10`, cached, fresh addresses |")
	fmt.Println("|---|---|---|")
	for i, size := range b.sizes {
		if err := b.connectedRow(ctx, fmt.Sprint("net", i), size); err != nil {
			return err
		}
	}
	return nil
}

func (b *bench) connectedRow(ctx context.Context, name, size string) error {
	disk := filepath.Join(b.work, name+".raw")
	if err := os.WriteFile(disk, make([]byte, 16<<20), 0o600); err != nil {
		return err
	}
	if _, err := b.boot(ctx, name, size, disk, "", "--network", "bench"); err != nil {
		return err
	}
	for _, args := range [][]string{{"snapshot", "create", name, name}, {"vm", "rm", "-f", name}} {
		if _, err := b.run(ctx, args...); err != nil {
			return err
		}
	}
	if _, _, err := b.clones(ctx, name, "map", 0, "--network", "keep"); err != nil { // makes the file
		return err
	}
	var one, ten []time.Duration
	for range b.runs {
		for _, m := range []struct {
			into  *[]time.Duration
			count int
			how   string
		}{{&one, 0, "keep"}, {&ten, 10, "fresh"}} {
			took, _, err := b.clones(ctx, name, "map", m.count, "--network", m.how)
			if err != nil {
				return err
			}
			*m.into = append(*m.into, took)
		}
	}
	fmt.Printf("| %s | **%s** | **%s** |\n", size, ms(one), ms(ten))
	_, err := b.run(ctx, "snapshot", "rm", name)
	return err
}
