package main

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"time"
)

// heavy makes the guest of that name dirty so many pages a tick.
const heavy = "dirty=1000"

// liveSection: what a guest notices of a live capture, by size of its RAM and
// for one that writes all the time.
func liveSection(ctx context.Context, b *bench) error {
	fmt.Println("\n## Stall of a guest during a capture")
	fmt.Println("\nSilences at the serial port; a stall is what a silence is longer than one when nothing is done, which is one tick.")
	fmt.Println("\n| guest | silent: nothing is done | silent: live capture | stall, live | pauseMs says | silent: by hand: pause, snapshot to tmpfs, cp, resume | stall, by hand | ratio | capture takes | its peak memory |")
	fmt.Println("|---|---|---|---|---|---|---|---|---|---|")
	for i, size := range b.sizes {
		if err := b.liveRow(ctx, fmt.Sprint("live", i), size, ""); err != nil {
			return err
		}
	}
	return b.liveRow(ctx, "heavy", b.sizes[min(1, len(b.sizes)-1)], heavy)
}

func (b *bench) liveRow(ctx context.Context, name, size, cmdline string) error {
	disk := filepath.Join(b.work, name+".raw")
	if err := os.WriteFile(disk, make([]byte, 16<<20), 0o600); err != nil {
		return err
	}
	m, err := b.boot(ctx, name, size, disk, cmdline)
	if err != nil {
		return err
	}
	var idle, live, said, hand, took []time.Duration
	var peak int64
	for range b.runs {
		gap, err := m.idle()
		if err != nil {
			return err
		}
		idle = append(idle, gap)
		var out output
		if gap, err = m.stall(func() (err error) {
			out, err = b.run(ctx, "snapshot", "create", name, "--capture", "live", "--parent", "none")
			return err
		}); err != nil {
			return err
		}
		live, took, peak = append(live, gap), append(took, out.wall), max(peak, out.peak)
		ms, err := b.pauseOf(ctx, out.text)
		if err != nil {
			return err
		}
		said = append(said, time.Duration(ms*float64(time.Millisecond)))
		if gap, err = m.stall(func() error { return b.byHand(ctx, m) }); err != nil {
			return err
		}
		hand = append(hand, gap)
	}
	if err := m.counts(ctx); err != nil { // it says so if something is BAD
		return err
	}
	if cmdline != "" {
		size += ", " + cmdline
	}
	ours, theirs := median(live)-median(idle), median(hand)-median(idle)
	fmt.Printf("| %s | %s | %s | **%d ms** | %s | %s | %d ms | 1/%.0f | %s | %d MiB |\n", size, ms(idle), ms(live), ours.Milliseconds(), ms(said),
		ms(hand), theirs.Milliseconds(), float64(theirs)/float64(max(ours, time.Millisecond)), ms(took), peak>>20)
	_, err = b.run(ctx, "vm", "rm", "-f", name)
	return err
}

// ms prints the median and, after a stroke, the worst.
func ms(all []time.Duration) string {
	worst := time.Duration(0)
	for _, d := range all {
		worst = max(worst, d)
	}
	f := func(d time.Duration) float64 { return float64(d.Microseconds()) / 1000 }
	return fmt.Sprintf("%.0f ms (worst %.0f)", f(median(all)), f(worst))
}
