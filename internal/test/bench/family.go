package main

import (
	"fmt"
	"os"
	"path/filepath"

	"github.com/cocoonv2/cocoon/internal/test/ramgen"
)

// family measures the first captures of two guests of one image: the second
// finds the pages that it shares with the first, at other addresses.
func (b *bench) family() error {
	first := b.ram(b.bytes, 7)
	root := filepath.Join(b.work, "family")
	env := []string{"COCOON_ROOT_DIR=" + root, "COCOON_RUN_DIR=" + root + ".run"}
	var runs series
	var stats []captured
	for name, im := range []*ramgen.Image{first, first.Sibling(9)} {
		dir := filepath.Join(b.work, fmt.Sprint("guest", name))
		if err := folder(dir, im); err != nil {
			return err
		}
		t, err := timed(env, b.cocoon, "snapshot", "import", dir, "--name", fmt.Sprint("guest", name))
		if err != nil {
			return err
		}
		got, err := b.inspect(env, fmt.Sprint("guest", name))
		if err != nil {
			return err
		}
		runs, stats = append(runs, t), append(stats, got)
		if err := os.RemoveAll(dir); err != nil {
			return err
		}
	}
	share := func(c captured) string {
		return fmt.Sprintf("%.0f %%", 100*float64(c.Capture.PagesReused)/float64(c.Capture.PagesReused+c.Capture.PagesNew))
	}
	row("second guest of an image, pages reused", share(stats[1]), "first guest "+share(stats[0]), "", "≥ 55 %")
	row("second guest of an image, time", ms(runs[1].wall), "first guest "+ms(runs[0].wall), ratio(runs[0].wall.Seconds(), runs[1].wall.Seconds())+" faster", "")
	row("second guest of an image, processor time", ms(runs[1].busy), "first guest "+ms(runs[0].busy), ratio(runs[0].busy.Seconds(), runs[1].busy.Seconds())+" less", "")
	row("second guest of an image, stored anew", mib(stats[1].Size.Unique), "first guest "+mib(stats[0].Size.Stored), ratio(float64(stats[1].Size.Unique), float64(stats[0].Size.Stored)), "")
	return os.RemoveAll(root)
}
