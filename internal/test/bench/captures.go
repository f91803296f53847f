package main

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/cocoonv2/cocoon/internal/base/guest"
	"github.com/cocoonv2/cocoon/internal/test/ramgen"
)

// fixture is a real snapshot folder's documents, whose one RAM range is set to
// the size under test.
const (
	fixture      = "chsnap/testdata/v53.0/plain-128m"
	fixtureBytes = 128 << 20
)

// folder writes a Cloud Hypervisor snapshot folder with the RAM of im.
func folder(dir string, im *ramgen.Image) error {
	if err := documents(dir, im.Bytes()); err != nil {
		return err
	}
	return im.WriteFile(filepath.Join(dir, "memory-ranges"), false)
}

// documents writes everything of such a folder but its RAM, of so many bytes.
func documents(dir string, bytes int64) error {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	for _, name := range []string{"config.json", "state.json"} {
		b, err := os.ReadFile(filepath.Join(fixture, name))
		if err != nil {
			return err
		}
		sized := strings.ReplaceAll(string(b), strconv.Itoa(fixtureBytes), strconv.FormatInt(bytes, 10))
		if err := os.WriteFile(filepath.Join(dir, name), []byte(sized), 0o600); err != nil {
			return err
		}
	}
	return guest.WriteFile(filepath.Join(dir, "guest.elf"))
}

// captured is what `snapshot inspect` says of a capture.
type captured struct {
	Size    struct{ Unique, Stored int64 }
	Capture struct{ PagesNew, PagesReused, PagesZero int64 }
}

func (b *bench) inspect(env []string, id string) (captured, error) {
	t, err := timed(env, b.cocoon, "snapshot", "inspect", id)
	if err != nil {
		return captured{}, err
	}
	var rows []captured
	if err := json.Unmarshal([]byte(t.out), &rows); err != nil || len(rows) != 1 {
		return captured{}, fmt.Errorf("inspect %s: %w, %d rows", id, err, len(rows))
	}
	return rows[0], nil
}

// captures measures a first and a second capture and the way back.
func (b *bench) captures() error {
	first := b.ram(b.bytes, 7)
	dirs := map[string]*ramgen.Image{"first": first, "second": first.Mutate(0.07, 8)}
	for name, im := range dirs {
		if err := folder(filepath.Join(b.work, name), im); err != nil {
			return err
		}
	}
	alone, err := newParts(b.work, first, dirs["second"])
	if err != nil {
		return err
	}
	tmp, err := os.MkdirTemp("/dev/shm", "cocoon-bench-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(tmp)
	shm := filepath.Join(tmp, "ram")
	var zstd, one, two, same, fresh, export, unzstd, mapped series
	var firstStats, secondStats captured
	for i := range b.runs {
		root := filepath.Join(b.work, fmt.Sprint("store", i))
		env := []string{"COCOON_ROOT_DIR=" + root, "COCOON_RUN_DIR=" + root + ".run"}
		if err := zstd.add(timed(nil, "zstd", "-1", "-T2", "-q", "-f", filepath.Join(b.work, "first", "memory-ranges"), "-o", filepath.Join(b.work, "first.zst"))); err != nil {
			return err
		}
		if err := one.add(timed(env, b.cocoon, "snapshot", "import", filepath.Join(b.work, "first"), "--name", "first")); err != nil {
			return err
		}
		if firstStats, err = b.inspect(env, "first"); err != nil {
			return err
		}
		if err := two.add(timed(env, b.cocoon, "snapshot", "import", filepath.Join(b.work, "second"), "--name", "second", "--parent", "first")); err != nil {
			return err
		}
		if secondStats, err = b.inspect(env, "second"); err != nil {
			return err
		}
		if err := same.add(timed(env, b.cocoon, "snapshot", "import", filepath.Join(b.work, "second"), "--parent", "second")); err != nil {
			return err
		}
		for name, to := range map[string]*series{"first": &fresh, "second": &export} {
			if err := to.add(b.exportOf(env, name)); err != nil {
				return err
			}
		}
		if err := alone.measure(); err != nil {
			return err
		}
		if err := mapped.add(timed(env, b.cocoon, "__materialise", "first")); err != nil {
			return err
		}
		if err := unzstd.add(timed(nil, "zstd", "-d", "-q", "-f", filepath.Join(b.work, "first.zst"), "-o", shm)); err != nil {
			return err
		}
		if err := os.RemoveAll(root); err != nil {
			return err
		}
	}
	zst, err := os.Stat(filepath.Join(b.work, "first.zst"))
	if err != nil {
		return err
	}
	delta, err := os.Stat(alone.changed + ".zst")
	if err != nil {
		return err
	}
	speed := func(s series) string {
		return fmt.Sprintf("%.2f GB/s (%s)", float64(b.bytes)/1e9/s.wall().Seconds(), ms(s.wall()))
	}
	sec := func(s series) float64 { return s.wall().Seconds() }
	row("first capture, time", ms(one.wall()), "`zstd -1 -T2` "+ms(zstd.wall()), ratio(sec(one), sec(zstd)), "≤ 1")
	row("first capture, processor time", ms(one.busy()), "`zstd -1 -T2` "+ms(zstd.busy()), ratio(one.busy().Seconds(), zstd.busy().Seconds()), "")
	row("first capture, stored", mib(firstStats.Size.Stored), "`zstd -1` "+mib(zst.Size()), ratio(float64(firstStats.Size.Stored), float64(zst.Size())), "≤ 1")
	row("second capture (7 % changed), time", ms(two.wall()), "first "+ms(one.wall()), ratio(sec(one), sec(two))+" faster", "≥ 3")
	row("second capture, RAM a second", speed(two), "`zstd -1 -T2` "+speed(zstd), ratio(sec(zstd), sec(two))+" faster", goalAgainstZstd(4))
	row("second capture, against its parts alone", ms(two.wall()), fmt.Sprintf("`zstd -1 -T2` of the changed pages %s, SHA-256 of those not zero %s", ms(alone.zstd.wall()), ms(alone.hash.wall())), ratio(sec(two), sec(alone.zstd)+sec(alone.hash)), "")
	row("second capture, processor time", ms(two.busy()), "first "+ms(one.busy()), ratio(one.busy().Seconds(), two.busy().Seconds())+" less", "")
	row("capture of RAM that did not change", speed(same), "second "+ms(two.wall()), ratio(sec(two), sec(same))+" faster", "")
	row("second capture, stored anew", mib(secondStats.Size.Unique), "changed pages `zstd -1` "+mib(delta.Size()), ratio(float64(secondStats.Size.Unique), float64(delta.Size())), "≤ 1.1")
	row("export of the first capture's RAM, verified", speed(fresh), "`zstd -d`, unverified, "+speed(unzstd), ratio(sec(unzstd), sec(fresh))+" faster", "≥ 2.5 GB/s")
	row("export of it, against compressing it", speed(fresh), "`zstd -1 -T2` "+speed(zstd), ratio(sec(zstd), sec(fresh))+" faster", goalAgainstZstd(2.5))
	row("export of it, processor time", ms(fresh.busy()), "`zstd -d` "+ms(unzstd.busy()), ratio(unzstd.busy().Seconds(), fresh.busy().Seconds())+" less", "")
	row("export of the second, whose pages lie in both's packs", speed(export), "the first "+speed(fresh), ratio(sec(fresh), sec(export))+" faster", "≥ 2.5 GB/s")
	row("its RAM made a file to be mapped, verified, on disk, fsynced", speed(mapped), "`zstd -1 -T2` "+speed(zstd), ratio(sec(zstd), sec(mapped))+" faster", goalAgainstZstd(2.5))
	row("that file, against the disk alone", ms(mapped.wall()), "`dd conv=fsync` of the pages not zero "+ms(alone.disk.wall()), ratio(sec(mapped), sec(alone.disk)), "")
	row("peak memory of capture, second, export", mib(one.peak())+", "+mib(two.peak())+", "+mib(export.peak()), "RAM "+mib(b.bytes), "", "≤ 256 MiB")
	return nil
}

// goalAgainstZstd gives a goal in GB/s of RAM as a ratio: the goals were set where
// `zstd -1 -T2` took 1.5 s for a guest of 2 GiB, three pages in five of it zero.
func goalAgainstZstd(gbs float64) string {
	const zstd = (2 << 30) / 1.5e9
	return fmt.Sprintf("≥ %.2f× (%.1f GB/s where zstd does %.2f)", gbs/zstd, gbs, zstd)
}

// export writes the second capture's folder to tmpfs, where a restore would
// stage it.
func (b *bench) export(env []string) (took, error) { return b.exportOf(env, "second") }

func (b *bench) exportOf(env []string, name string) (took, error) {
	dir, err := os.MkdirTemp("/dev/shm", "cocoon-bench-")
	if err != nil {
		return took{}, err
	}
	defer os.RemoveAll(dir)
	return timed(env, b.cocoon, "snapshot", "export", name, "-o", filepath.Join(dir, "out"))
}
