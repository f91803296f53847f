package capture

import (
	"context"
	"fmt"

	"github.com/cocoonv2/cocoon/chsnap"
	"github.com/cocoonv2/cocoon/store/pack/packer"
)

// liveMemory is RAM that the VMM sends while the guest runs. The full pass goes
// straight into the packs. What the guest wrote meanwhile comes again, the last
// of it during the pause: that is only put aside, and packed over the first pass
// once the guest runs again.
type liveMemory struct {
	ramImages
	src   *source
	w     *packer.Writer
	dir   string // for the overlay
	later *overlay

	missing   uint64       // bytes of the first pass
	firstDone func() error // called when it has come, the guest still running
}

// Begin is called with the layout of RAM, before any of it.
func (m *liveMemory) Begin(ctx context.Context, ranges []chsnap.Range) (err error) {
	m.ramImages = m.src.openRAM(ctx, m.w, ranges)
	var sum uint64
	for _, r := range ranges {
		sum += r.Length
	}
	m.src.total += int64(sum)
	m.missing = sum
	m.later, err = newOverlay(m.dir, sum)
	return err
}

// Page takes a piece of one round.
func (m *liveMemory) Page(round int, gpa uint64, p []byte) error {
	var linear int64
	for i, r := range m.ranges {
		if gpa-r.GPA >= r.Length { // also when gpa is below
			linear += int64(r.Length)
			continue
		}
		off := int64(gpa - r.GPA)
		if round > 1 {
			return m.later.put(p, linear+off)
		}
		if _, err := m.images[i].WriteAt(p, off); err != nil {
			return fmt.Errorf("pack RAM at %#x: %w", gpa, err)
		}
		m.src.progress(int64(len(p)))
		if m.missing -= uint64(len(p)); m.missing == 0 {
			return m.firstDone()
		}
		return nil
	}
	return fmt.Errorf("pack RAM at %#x: there is none", gpa)
}

func (m *liveMemory) bytes() int64 { return 0 }

// pack brings the later rounds over the first.
func (m *liveMemory) pack(context.Context, *source, *packer.Writer) error {
	return m.later.each(func(p []byte, linear int64) error {
		for i, r := range m.ranges {
			n := min(max(int64(r.Length)-linear, 0), int64(len(p)))
			if n > 0 {
				if _, err := m.images[i].WriteAt(p[:n], linear); err != nil {
					return fmt.Errorf("pack RAM at %#x: %w", r.GPA+uint64(linear), err)
				}
			}
			p, linear = p[n:], max(linear-int64(r.Length), 0)
			if len(p) == 0 {
				break
			}
		}
		return nil
	})
}

func (m *liveMemory) close() {
	m.ramImages.close()
	m.later.close()
}
