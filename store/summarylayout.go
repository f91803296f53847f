package store

import (
	"strconv"
	"strings"
	"time"
	"unicode/utf8"
)

// layout reads the JSON of a Summary exactly as encoding/json lays it out: a
// listing of 10,000 spent a quarter of its time in looking for what stands always
// at the same place. Whatever stands elsewhere, is escaped or is not plain ends in
// false, and is left to a reader of any JSON.
type layout struct {
	rest string
	ok   bool
}

// decodeLayout fills s; false when the text is laid out in another way. Strings
// are parts of the text.
func decodeLayout(text string, s *Summary) bool {
	l := layout{text, true}
	s.ID = ID(l.text(`{"id":`))
	s.Name = l.text(`,"name":`)
	s.VM.ID = l.text(`,"vm":{"id":`)
	s.VM.Name = l.text(`,"name":`)
	s.Created = l.time(`},"created":`)
	s.Description = l.text(`,"description":`)
	s.Labels = l.labels(`,"labels":{`)
	s.Expires = l.timeOrNull(`,"expires":`)
	s.Protected = l.bool(`,"protected":`)
	s.State = State(l.text(`,"state":`))
	s.Hypervisor.Name = l.text(`,"hypervisor":{"name":`)
	s.Hypervisor.Version = l.text(`,"version":`)
	s.CPUs = int(l.int(`},"cpus":`))
	s.Memory.Bytes = l.int(`,"memory":{"bytes":`)
	s.Memory.ZeroBytes = l.int(`,"zeroBytes":`)
	s.Disks = l.disks(`},"disks":[`)
	s.Size.Virtual = l.int(`,"size":{"virtual":`)
	s.Size.Stored = l.int(`,"stored":`)
	s.Size.Unique = l.int(`,"unique":`)
	s.Parent = ID(l.text(`},"parent":`))
	s.Capture.Mode = l.text(`,"capture":{"mode":`)
	s.Capture.PauseMs = l.float(`,"pauseMs":`)
	s.Capture.TotalMs = l.msOrNull(`,"totalMs":`)
	s.Capture.PagesNew = uint64(l.int(`,"pagesNew":`))
	s.Capture.PagesReused = uint64(l.int(`,"pagesReused":`))
	s.Capture.PagesZero = uint64(l.int(`,"pagesZero":`))
	l.skip("}")
	if !strings.HasPrefix(l.rest, "}") {
		s.Key = l.text(`,"key":`)
	}
	l.skip("}")
	return l.ok && l.rest == ""
}

func (l *layout) skip(what string) {
	rest, ok := strings.CutPrefix(l.rest, what)
	l.rest, l.ok = rest, l.ok && ok
}

// accept skips what may be left out.
func (l *layout) accept(what string) bool {
	rest, ok := strings.CutPrefix(l.rest, what)
	l.rest = rest
	return ok && l.ok
}

func (l *layout) text(before string) string {
	l.skip(before)
	l.skip(`"`)
	plain := true
	for i := range len(l.rest) {
		switch c := l.rest[i]; {
		case c == '"':
			value := l.rest[:i]
			l.rest = l.rest[i+1:]
			l.ok = l.ok && (plain || utf8.ValidString(value))
			return value
		case c == '\\' || c < ' ':
			l.ok = false
			return ""
		case c >= utf8.RuneSelf:
			plain = false
		}
	}
	l.ok = false
	return ""
}

func (l *layout) time(before string) (t time.Time) {
	err := t.UnmarshalText([]byte(l.text(before)))
	l.ok = l.ok && err == nil
	return t
}

func (l *layout) timeOrNull(before string) *time.Time {
	l.skip(before)
	if l.accept("null") {
		return nil
	}
	t := l.time("")
	return &t
}

func (l *layout) bool(before string) bool {
	l.skip(before)
	if l.accept("true") {
		return true
	}
	l.skip("false")
	return false
}

// number takes digits and dots, without a needless zero before them.
func (l *layout) number(before string) string {
	l.skip(before)
	n := 0
	for n < len(l.rest) && (l.rest[n] >= '0' && l.rest[n] <= '9' || l.rest[n] == '.') {
		n++
	}
	value := l.rest[:n]
	l.rest = l.rest[n:]
	if n == 0 || value[0] == '.' || value[n-1] == '.' || n > 1 && value[0] == '0' && value[1] != '.' {
		l.ok = false
	}
	return value
}

func (l *layout) int(before string) int64 {
	n, err := strconv.ParseInt(l.number(before), 10, 64)
	l.ok = l.ok && err == nil
	return n
}

func (l *layout) float(before string) float64 {
	f, err := strconv.ParseFloat(l.number(before), 64)
	l.ok = l.ok && err == nil
	return f
}

func (l *layout) msOrNull(before string) Ms {
	l.skip(before)
	if l.accept("null") {
		return UnknownMs
	}
	return Ms(l.float(""))
}

func (l *layout) labels(before string) map[string]string {
	l.skip(before)
	labels := map[string]string{}
	for l.ok && !l.accept("}") {
		if len(labels) > 0 {
			l.skip(",")
		}
		key := l.text("")
		if _, twice := labels[key]; twice {
			l.ok = false
		}
		labels[key] = l.text(":")
	}
	return labels
}

func (l *layout) disks(before string) []DiskSummary {
	l.skip(before)
	disks := []DiskSummary{}
	for l.ok && !l.accept("]") {
		if len(disks) > 0 {
			l.skip(",")
		}
		disks = append(disks, DiskSummary{Serial: l.text(`{"serial":`), Bytes: l.int(`,"bytes":`)})
		l.skip("}")
	}
	return disks
}
