package policy

import (
	"bufio"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/rogpeppe/go-internal/txtar"
)

var update = flag.Bool("update", false, "rewrite the golden files")

// TestGolden: each file of testdata has the sections rules (key value lines),
// snapshots (id vm created flags…) and decisions (the golden answer).
func TestGolden(t *testing.T) {
	files, err := filepath.Glob("testdata/*.txtar")
	if err != nil || len(files) == 0 {
		t.Fatalf("golden files: %v, %v", files, err)
	}
	for _, path := range files {
		t.Run(strings.TrimSuffix(filepath.Base(path), ".txtar"), func(t *testing.T) { golden(t, path) })
	}
}

func golden(t *testing.T, path string) {
	a, err := txtar.ParseFile(path)
	if err != nil {
		t.Fatal(err)
	}
	section := map[string]*txtar.File{}
	for i := range a.Files {
		section[a.Files[i].Name] = &a.Files[i]
	}
	rules, now := parseRules(t, string(section["rules"].Data))
	got := format(Decide(parseSnapshots(t, string(section["snapshots"].Data)), rules, now))
	if *update {
		section["decisions"].Data = []byte(got)
		if err := os.WriteFile(path, txtar.Format(a), 0o644); err != nil {
			t.Fatal(err)
		}
		return
	}
	if diff := cmp.Diff(string(section["decisions"].Data), got); diff != "" {
		t.Errorf("decisions differ (-golden +got):\n%s", diff)
	}
}

func format(r Result) string {
	var b strings.Builder
	for _, d := range r.Decisions {
		verb := map[bool]string{true: "keep", false: "remove"}[d.Keep]
		fmt.Fprintf(&b, "%-6s %s %s %s: %s\n", verb, d.Snapshot.ID, d.Group, d.Snapshot.Created.Format("2006-01-02T15:04"), strings.Join(d.Reasons, ", "))
	}
	fmt.Fprintf(&b, "%d bytes stay\n", r.Bytes)
	return b.String()
}

func parseRules(t *testing.T, text string) (Rules, time.Time) {
	t.Helper()
	var r Rules
	now := instant(t, "2026-06-30T12:00")
	counts := map[string]*int{
		"last": &r.Last, "hourly": &r.Hourly, "daily": &r.Daily, "weekly": &r.Weekly,
		"monthly": &r.Monthly, "yearly": &r.Yearly, "max": &r.MaxPerVM,
	}
	for key, value := range lines(text) {
		var err error
		switch key {
		case "now":
			now = instant(t, value)
		case "within":
			r.Within, err = time.ParseDuration(value)
		case "label":
			k, v, exact := strings.Cut(value, "=")
			r.Labels = append(r.Labels, Label{k, v, !exact})
		case "group-by":
			r.GroupBy = Group{Label: value}
			if value == "none" {
				r.GroupBy = Group{All: true}
			}
		case "bytes":
			r.MaxBytes, err = strconv.ParseInt(value, 10, 64)
		default:
			*counts[key], err = strconv.Atoi(value)
		}
		if err != nil {
			t.Fatalf("rule %s %s: %v", key, value, err)
		}
	}
	return r, now
}

// parseSnapshots reads "id vm created [protected] [needed=BY] [damaged] [expires=T]
// [label=k=v] [blob=digest:bytes] [foreign] [bed]…".
func parseSnapshots(t *testing.T, text string) []Snapshot {
	t.Helper()
	var out []Snapshot
	for id, rest := range lines(text) {
		f := strings.Fields(rest)
		s := Snapshot{ID: id, VM: "id-" + f[0], VMName: f[0], Created: instant(t, f[1]), Labels: map[string]string{}}
		for _, word := range f[2:] {
			key, value, _ := strings.Cut(word, "=")
			k, v, _ := strings.Cut(value, "=")
			switch key {
			case "protected":
				s.Protected = true
			case "damaged":
				s.Damaged = true
			case "bed":
				s.Bed = true
			case "foreign":
				s.Foreign = true
			case "needed":
				s.Needed = value
			case "expires":
				e := instant(t, value)
				s.Expires = &e
			case "label":
				s.Labels[k] = v
			case "blob":
				digest, bytes, _ := strings.Cut(value, ":")
				n, err := strconv.ParseInt(bytes, 10, 64)
				if err != nil {
					t.Fatal(err)
				}
				s.Blobs = append(s.Blobs, Blob{digest, n})
			default:
				t.Fatalf("snapshot %s: %q", id, word)
			}
		}
		out = append(out, s)
	}
	return out
}

// lines yields the first word and the rest of each line.
func lines(text string) func(func(string, string) bool) {
	return func(yield func(string, string) bool) {
		for sc := bufio.NewScanner(strings.NewReader(text)); sc.Scan(); {
			key, rest, _ := strings.Cut(strings.TrimSpace(sc.Text()), " ")
			if key != "" && !yield(key, strings.TrimSpace(rest)) {
				return
			}
		}
	}
}

func instant(t *testing.T, s string) time.Time {
	t.Helper()
	at, err := time.Parse("2006-01-02T15:04", s)
	if err != nil {
		t.Fatal(err)
	}
	return at
}
