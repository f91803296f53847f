package gc

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/cocoonv2/cocoon/gc/garbage"
	"github.com/cocoonv2/cocoon/internal/base/durable"
	"github.com/cocoonv2/cocoon/internal/base/hostfacts"
	"github.com/cocoonv2/cocoon/store"
	"github.com/cocoonv2/cocoon/store/layout"
)

// metricsFile is readable by others.
var metricsFile = durable.Document{Name: "metrics file", Limit: 16 << 20}

// Run is what a metrics file reports about one run.
type Run struct {
	Ended   time.Time
	Took    time.Duration
	Success bool
	Report  *Report // nil if the run failed before it had a plan
	// Damaged counts the objects of the store that are missing or not what a
	// snapshot needs, by structure alone.
	Damaged func(context.Context, *store.Store) (int, error)
}

// WriteMetrics replaces the file at path by Prometheus text about the run and
// about the present state of the store. What cannot be measured is left out and
// is an error; the rest is still written. A nil store could not be opened.
func WriteMetrics(ctx context.Context, path string, s *store.Store, run Run) error {
	m := &metrics{}
	m.run(run)
	var measured error
	if s != nil {
		measured = m.store(ctx, s, run.Damaged)
	}
	if err := metricsFile.Write(path, m.text.Bytes(), 0o644); err != nil {
		return fmt.Errorf("metrics: %w", errors.Join(err, measured))
	}
	if measured != nil {
		return fmt.Errorf("metrics: %w", measured)
	}
	return nil
}

// metrics is text in the exposition format of Prometheus; all are gauges, since
// each run is a process of its own.
type metrics struct{ text bytes.Buffer }

func (m *metrics) gauge(name, help string, value float64) {
	m.head(name, help)
	fmt.Fprintf(&m.text, "%s %v\n", name, value)
}

func (m *metrics) gauges(name, help, label string, values map[string]float64) {
	m.head(name, help)
	for _, of := range slices.Sorted(maps.Keys(values)) {
		fmt.Fprintf(&m.text, "%s{%s=%q} %v\n", name, label, of, values[of])
	}
}

func (m *metrics) head(name, help string) {
	fmt.Fprintf(&m.text, "# HELP %s %s\n# TYPE %s gauge\n", name, help, name)
}

func (m *metrics) run(r Run) {
	success := 0.0
	if r.Success {
		success = 1
	}
	m.gauge("cocoon_gc_last_run_timestamp_seconds", "When the last gc ended, Unix time.", float64(r.Ended.UnixMilli())/1000)
	m.gauge("cocoon_gc_last_run_success", "1 if the last gc did all it should, else 0.", success)
	m.gauge("cocoon_gc_duration_seconds", "How long the last gc took, prune included.", r.Took.Seconds())
	freed, removed := map[string]float64{}, map[string]float64{}
	for _, k := range garbage.Kinds() { // each has a sample, 0 where none went
		freed[string(k)], removed[string(k)] = 0, 0
	}
	if r.Report != nil {
		m.gauge("cocoon_gc_lock_seconds", "How long the last gc held the store lock.", r.Report.LockMs/1000)
		for _, x := range r.Report.Removed {
			freed[string(x.Kind)] += float64(x.Bytes)
			removed[string(x.Kind)]++
		}
		m.gauge("cocoon_gc_lost_roots", "What vanished, by no command, before the last gc.", float64(len(r.Report.Lost)))
		m.gauge("cocoon_gc_doubtful_objects", "What nobody claims and the last gc left alone.", float64(len(r.Report.Doubtful)))
		m.gauge("cocoon_gc_failed_objects", "Objects that the last gc could not remove.", float64(len(r.Report.Failed)))
	}
	if r.Report != nil && r.Report.Repack != nil {
		m.repack(r.Report.Repack)
	}
	m.gauges("cocoon_gc_freed_bytes", "Bytes that the last gc freed.", "kind", freed)
	m.gauges("cocoon_gc_removed_objects", "Objects that the last gc removed.", "kind", removed)
}

// repack is reported only by runs with --repack.
func (m *metrics) repack(r *RepackReport) {
	packs := map[string]float64{"rewrite": 0, "keep": 0}
	for _, p := range r.Packs {
		if p.LiveShare < r.Threshold {
			packs[p.Action]++
		}
	}
	m.gauges("cocoon_gc_poor_packs", "Packs below the threshold of the last gc --repack, by what became of them.", "action", packs)
	m.gauge("cocoon_gc_repack_old_bytes", "Bytes of the packs that the last gc --repack rewrote.", float64(r.OldBytes))
	m.gauge("cocoon_gc_repack_written_bytes", "Bytes of the packs that the last gc --repack wrote instead.", float64(r.WrittenBytes))
}

func (m *metrics) store(ctx context.Context, s *store.Store, damaged func(context.Context, *store.Store) (int, error)) error {
	occupied := map[string]float64{}
	for _, folder := range layout.Folders() {
		occupied[folder] = float64(hostfacts.FileBytes(s.Path(folder)))
	}
	m.gauges("cocoon_store_bytes", "What the store occupies.", "folder", occupied)
	free, _, freeErr := hostfacts.FreeBytes(s.Root())
	if freeErr == nil {
		m.gauge("cocoon_store_free_bytes", "What is free on the file system of the store.", float64(free))
	}
	all, listErr := s.Index().Summaries(ctx)
	if listErr == nil {
		m.gauge("cocoon_store_snapshots", "Published snapshots.", float64(len(all)))
	}
	n, verifyErr := damaged(ctx, s)
	if verifyErr == nil {
		m.gauge("cocoon_store_damaged_objects", "Objects that are missing or not what a snapshot needs; structure only.", float64(n))
	}
	return errors.Join(freeErr, listErr, verifyErr)
}
