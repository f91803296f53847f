package main

import (
	"bytes"
	"context"
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"time"
)

// The disk of this section: diskBytes long, of which dataBytes hold data in
// pieces spread over all of it.
const (
	diskBytes  = 10 << 30
	dataBytes  = 2 << 30
	diskPieces = 32
)

// disksSection: what a disk adds to the pause, where the file system clones and
// where it does not.
func disksSection(ctx context.Context, b *bench) error {
	fmt.Printf("\n## Pause of a guest of 128 MiB with a disk of %d GiB, %d GiB of it data\n", diskBytes>>30, dataBytes>>30)
	fmt.Println("\n| store on | pauseMs, live | stall, live | pauseMs, file mode | stall by hand: pause, snapshot to tmpfs, cp, resume | first capture takes | next ones |")
	fmt.Println("|---|---|---|---|---|---|---|")
	kind, err := fileSystem(ctx, b.work)
	if err != nil {
		return err
	}
	if err := b.disksRow(ctx, kind); err != nil {
		return err
	}
	xfs, unmount, err := b.onXFS(ctx)
	if err != nil {
		fmt.Printf("\nXFS is missing above: %v\n", err)
		return nil
	}
	defer unmount()
	return xfs.disksRow(ctx, "xfs, reflink")
}

func fileSystem(ctx context.Context, dir string) (string, error) {
	out, err := exec.CommandContext(ctx, "stat", "-f", "-c", "%T", dir).Output()
	return string(bytes.TrimSpace(out)), err
}

// onXFS is the same bench on a fresh XFS that can clone.
func (b *bench) onXFS(ctx context.Context) (*bench, func(), error) {
	image, dir := filepath.Join(b.work, "xfs.img"), filepath.Join(b.work, "xfs")
	if err := os.Mkdir(dir, 0o700); err != nil {
		return nil, nil, err
	}
	for _, argv := range [][]string{
		{"truncate", "-s", "12G", image},
		{"mkfs.xfs", "-q", "-m", "reflink=1", image},
		{"mount", "-o", "loop", image, dir},
	} {
		if out, err := exec.CommandContext(ctx, argv[0], argv[1:]...).CombinedOutput(); err != nil {
			return nil, nil, fmt.Errorf("%s: %w: %s", argv[0], err, bytes.TrimSpace(out))
		}
	}
	x := *b
	x.work = filepath.Join(dir, "bench")
	err := os.Mkdir(x.work, 0o700)
	if err == nil {
		err = x.prepare()
	}
	unmount := func() {
		if err := x.clean(); err != nil {
			fmt.Fprintln(os.Stderr, "bench-vmm:", err)
		}
		exec.Command("umount", dir).Run()
	}
	if err != nil {
		unmount()
		return nil, nil, err
	}
	return &x, unmount, nil
}

func (b *bench) disksRow(ctx context.Context, kind string) error {
	disk := filepath.Join(b.work, "big.raw")
	if err := writeDisk(disk); err != nil {
		return err
	}
	defer os.Remove(disk)
	const name = "big"
	m, err := b.boot(ctx, name, "128M", disk, "")
	if err != nil {
		return err
	}
	var live, stalls, file, hand, first, next []time.Duration
	for i := range b.runs {
		var out output
		gap, err := m.stall(func() (err error) {
			out, err = b.run(ctx, "snapshot", "create", name, "--capture", "live")
			return err
		})
		if err != nil {
			return err
		}
		if stalls = append(stalls, gap); i == 0 {
			first = append(first, out.wall)
		} else {
			next = append(next, out.wall)
		}
		if live, err = b.appendPause(ctx, live, out.text); err != nil {
			return err
		}
		if out, err = b.run(ctx, "snapshot", "create", name, "--capture", "file"); err != nil {
			return err
		}
		if file, err = b.appendPause(ctx, file, out.text); err != nil {
			return err
		}
		if gap, err = m.stall(func() error { return b.byHand(ctx, m) }); err != nil {
			return err
		}
		hand = append(hand, gap)
	}
	if err := m.counts(ctx); err != nil {
		return err
	}
	fmt.Printf("| %s | **%s** | %s | %s | %s | %s | %s |\n", kind, ms(live), ms(stalls), ms(file), ms(hand), ms(first), ms(next))
	_, err = b.run(ctx, "vm", "rm", "-f", name)
	return err
}

func (b *bench) appendPause(ctx context.Context, to []time.Duration, id string) ([]time.Duration, error) {
	p, err := b.pauseOf(ctx, id)
	return append(to, time.Duration(p*float64(time.Millisecond))), err
}

// writeDisk writes the disk: pages that compress by half and are all different.
func writeDisk(path string) error {
	f, err := os.Create(path)
	if err != nil {
		return err
	}
	defer f.Close()
	if err := f.Truncate(diskBytes); err != nil {
		return err
	}
	rnd := rand.New(rand.NewPCG(1, 2))
	buf := make([]byte, 1<<20)
	for piece := range int64(diskPieces) {
		for off := int64(0); off < dataBytes/diskPieces; off += int64(len(buf)) {
			for at := 0; at < len(buf); at += 16 {
				binary.LittleEndian.PutUint64(buf[at:], rnd.Uint64())
			}
			if _, err := f.WriteAt(buf, 1<<20+piece*(diskBytes/diskPieces)+off); err != nil {
				return err
			}
		}
	}
	return f.Close()
}
