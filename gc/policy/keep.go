package policy

import (
	"fmt"
	"time"
)

// bucketRule keeps the newest snapshot of each of the last count buckets.
type bucketRule struct {
	name   string
	count  int
	bucket func(t time.Time, index int) string
}

func (r Rules) bucketRules() []bucketRule {
	calendar := func(layout string) func(time.Time, int) string {
		return func(t time.Time, _ int) string { return t.UTC().Format(layout) }
	}
	return []bucketRule{
		{"last", r.Last, func(_ time.Time, index int) string { return fmt.Sprint(index) }},
		{"hourly", r.Hourly, calendar("2006-01-02T15")},
		{"daily", r.Daily, calendar("2006-01-02")},
		{"weekly", r.Weekly, isoWeek},
		{"monthly", r.Monthly, calendar("2006-01")},
		{"yearly", r.Yearly, calendar("2006")},
	}
}

func isoWeek(t time.Time, _ int) string {
	year, week := t.UTC().ISOWeek()
	return fmt.Sprintf("%d-W%02d", year, week)
}

// keep applies the keep rules to one group, newest first.
func (r Rules) keep(group []*Decision) {
	for _, b := range r.bucketRules() {
		b.apply(group)
	}
	if r.Within > 0 && len(group) > 0 {
		keepWithin(group, r.Within)
	}
	for _, d := range group {
		for _, l := range r.Labels {
			if l.matches(d.Snapshot) {
				d.match("label " + l.String())
			}
		}
		switch {
		case d.Keep:
		case r.Selects():
			d.leave("no keep rule matches")
		default:
			d.stay("no keep rule is given")
		}
	}
}

func (d *Decision) match(reason string) {
	d.matches++
	d.stay(reason)
}

func (b bucketRule) apply(group []*Decision) {
	used, last := 0, ""
	for i, d := range group {
		if used == b.count {
			return
		}
		name, bucket := b.name, b.bucket(d.Snapshot.Created, i)
		if used > 0 && bucket == last {
			if i < len(group)-1 {
				continue
			}
			name = "oldest " + name
		}
		used, last = used+1, bucket
		d.match(fmt.Sprintf("%s %d of %d", name, used, b.count))
	}
}

// keepWithin counts back from the newest snapshot, not from now: a VM that is no
// longer saved keeps what it has.
func keepWithin(group []*Decision, within time.Duration) {
	edge := group[0].Snapshot.Created.Add(-within)
	for _, d := range group {
		if !d.Snapshot.Created.Before(edge) {
			d.match(fmt.Sprintf("within %s of the newest", span(within)))
		}
	}
}

// span writes whole days as 7d.
func span(d time.Duration) string {
	const day = 24 * time.Hour
	if d%day == 0 {
		return fmt.Sprintf("%dd", d/day)
	}
	return d.String()
}
