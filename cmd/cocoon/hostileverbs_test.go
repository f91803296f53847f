package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/opencontainers/go-digest"
	"github.com/spf13/cobra"

	"github.com/cocoonv2/cocoon/internal/base/screen"
	"github.com/cocoonv2/cocoon/internal/engine/house"
)

// forgedRow begins a line that only a newline of somebody else's can have made.
const forgedRow = "FORGED"

// hostileTexts are what names, labels and messages are made of in the test.
var hostileTexts = []string{
	"web\x1b[2J\x1b]0;T\x07\x1b[31m\r\n" + forgedRow + " 1.2GiB\t\u202egnp.\u009b1m\x7f\u2028" + forgedRow,
	"\xff\xfe\xc3(\xed\xa0\x80\n" + forgedRow + "\u200b\u2066\ufeff",
	"%s%d%!(EXTRA){{.Name}},path=/etc/passwd\"'`$(id)\\x1b",
}

// hostileVerbs are the command lines that are run for each verb. SNAPSHOTS and VMS
// stand for all ids, SNAPSHOT and VM for each, SOME and SOMEVM for a few of them, TEXT
// for the hostile text. Verbs that remove come last.
var hostileVerbs = []struct{ verb, args string }{
	{"version", ""},
	{"help", "|snapshot|TEXT|snapshot TEXT"},
	{"completion bash", ""},
	{"completion fish", ""},
	{"completion powershell", ""},
	{"completion zsh", ""},
	{"config show", "|--config config.yaml|--config values.yaml|--config TEXT|--log-level TEXT|--log-format TEXT|--progress TEXT|--TEXT"},
	{"snapshot list", "|--tree|-q|--no-trunc|--format json|--format {{.}}|--format {{json~.}}|--format TEXT|--sort name|--sort vm|--sort TEXT|--filter TEXT|--filter TEXT=x|--vm TEXT|--label TEXT|--format table~{{.ID}}\\t{{.Name}}\\t{{.VM.Name}}\\t{{.Labels}}"},
	{"snapshot inspect", "SNAPSHOTS|TEXT"},
	{"snapshot check", "SNAPSHOTS|TEXT"},
	{"snapshot diff", "SOME SOME|SOME SOME --format json|TEXT TEXT"},
	{"snapshot du", "|--format json|SNAPSHOTS|TEXT"},
	{"snapshot verify", "--all|--all --read-data|SOME|TEXT|--read-data=TEXT --all"},
	{"snapshot protect", "TEXT"},
	{"snapshot unprotect", "TEXT"},
	{"snapshot rename", "SOME TEXT|TEXT a"},
	{"snapshot tag", "SOME --add TEXT=TEXT|SOME --add TEXT|SOME --remove TEXT|TEXT --add a=b"},
	{"snapshot create", "VM|SOMEVM --dry-run|TEXT|web --capture TEXT|web --parent TEXT|web --expires TEXT|web TEXT|web --label TEXT"},
	{"snapshot import", "folder --name TEXT|folder --label TEXT|FOLDER|LAYOUT|layout --tag TEXT|TEXT|FILE"},
	{"snapshot export", "SOME -o out-ch-SOME|SOME -o out-oci-SOME --format oci|TEXT -o x|SOME -o TEXT|SOME -o x --format TEXT"},
	{"snapshot push", "SOME TEXT|TEXT REGISTRY/a:b|SOME REGISTRY/a:b"},
	{"snapshot pull", "TEXT|REGISTRY/a:b TEXT"},
	{"snapshot prune", "--keep-last 1 --dry-run|--keep-last 1 --dry-run --format json|--keep-last 1 --group-by none --dry-run|--keep-last 1 --group-by label:TEXT --dry-run|--keep-last TEXT|--keep-within TEXT|--max-store-size TEXT|--keep-last 1 --group-by TEXT"},
	{"image list", "|-q|--format json|--format {{.}}"},
	{"image inspect", "base|IMAGES|TEXT"},
	{"image import", "disk.raw --name TEXT|TEXT|FILE"},
	{"refs", "DIGESTS|TEXT|base|--rebuild base"},
	{"vm list", "|-q|--no-trunc|--format json|--format {{.}}|--format {{json~.}}|--filter label=TEXT|--sort name"},
	{"vm inspect", "VMS|TEXT"},
	{"vm logs", "TEXT"}, // else it is what the guest printed
	{"vm create", "TEXT --kernel guest.elf|x --kernel TEXT|x --kernel guest.elf --disk TEXT|x --kernel guest.elf --disk disk.raw,TEXT|x --kernel guest.elf --network TEXT|x --kernel guest.elf --label TEXT|x --kernel guest.elf --memory TEXT|x --from-snapshot SNAPSHOT --dry-run|x --from-snapshot SOME --cold --dry-run|x --from-snapshot SOME --network fresh --dry-run|x --from-snapshot SOME --restore-mode TEXT|x --from-snapshot TEXT|x --kernel guest.elf --cmdline TEXT --ch-arg TEXT"},
	{"vm start", "VMS|TEXT|web --restore-mode TEXT"},
	{"vm stop", "VMS|TEXT|web --timeout TEXT"},
	{"vm suspend", "VMS|TEXT"},
	{"vm pause", "VMS|TEXT"},
	{"vm resume", "VMS|TEXT"},
	{"vm restore", "VM SNAPSHOT0|SOMEVM SNAPSHOT0 --dry-run|TEXT TEXT"},
	{"system info", "|--format json|--format TEXT"},
	{"system df", "|--format json"},
	{"system init", "|TEXT"},
	{"system doctor", "|--format json"},
	{"system repair", "--dry-run|--dry-run --format json|--from TEXT"},
	{"system key create", "TEXT|FILE"},
	{"system key show", "TEXT|FILE"},
	{"demo", "--hypervisor no-such-vmm"},
	{"gc", "--dry-run|--dry-run --explain|--dry-run --explain --format json|--dry-run --prune --explain|--dry-run --prune --explain --format json|--dry-run --repack --explain|--dry-run --repack --explain --format json|--wait TEXT|--repack-threshold TEXT --repack|--metrics-file TEXT|--explain|--prune --format json|--repack --format json"},
	{"snapshot prune", "--keep-last 1 --group-by none"},
	{"snapshot rm", "SNAPSHOTS --dry-run|TEXT|SNAPSHOTS"},
	{"vm rm", "VMS|TEXT"},
	{"image pin", "IMAGES|TEXT"},
	{"image unpin", "IMAGES|TEXT"},
	{"image rm", "IMAGES|TEXT"},
	{"gc", "--explain|--format json"},
}

// notRun are processes that cocoon starts of itself.
var notRun = []string{house.GuardVerb, house.RescueVerb, house.MaterialiseVerb, undemoVerb}

func TestEveryVerbIsRunOnHostileStores(t *testing.T) {
	a := &app{out: screen.New(io.Discard, "stdout"), errOut: screen.New(io.Discard, "stderr"), env: os.LookupEnv}
	root := newRoot(a)
	root.InitDefaultHelpCmd()
	root.InitDefaultCompletionCmd()
	var missing []string
	var visit func(c *cobra.Command)
	visit = func(c *cobra.Command) {
		verb := strings.TrimPrefix(strings.TrimPrefix(c.CommandPath(), "cocoon"), " ")
		known := slices.ContainsFunc(hostileVerbs, func(v struct{ verb, args string }) bool { return v.verb == verb })
		if !c.HasSubCommands() && !known && !slices.Contains(notRun, verb) {
			missing = append(missing, verb)
		}
		for _, sub := range c.Commands() {
			visit(sub)
		}
	}
	visit(root)
	if len(missing) > 0 {
		t.Errorf("name these in hostileVerbs: %q", missing)
	}
}

// TestNoVerbPrintsWhatItDidNotMakeItself: on a store in which every text that
// comes from elsewhere is hostile, no verb prints a character that is more than
// read, and JSON is JSON without null where a list belongs.
func TestNoVerbPrintsWhatItDidNotMakeItself(t *testing.T) {
	if !isAlone() {
		t.Parallel()
	}
	for i, text := range hostileTexts {
		t.Run(strconv.Itoa(i), func(t *testing.T) {
			if inAProcessOfItsOwn(t) {
				runHostile(t, seedStore(t), text, i == 0, nil)
			}
		})
	}
}

// FuzzHostileStore is the same of any text, of some places and verbs.
func FuzzHostileStore(f *testing.F) {
	f.Add(hostileTexts[0], uint64(1))
	seed := seedStore(f)
	f.Fuzz(func(t *testing.T, text string, sample uint64) {
		if len(text) < 200 {
			runHostile(t, seed, text, false, rand.New(rand.NewPCG(sample, 0)))
		}
	})
}

func runHostile(t *testing.T, seed, text string, everyImport bool, sample *rand.Rand) {
	s := newHostileStore(t, seed, text, sample)
	t.Chdir(filepath.Dir(s.root))
	for k, v := range map[string]string{"ROOT_DIR": s.root, "RUN_DIR": s.run, "HYPERVISOR": s.script, "CACHE_AHEAD": "off", "VMM_TIMEOUT": "1s", "LOG_LEVEL": "debug"} {
		t.Setenv("COCOON_"+k, v)
	}
	s.inputs()
	if !everyImport {
		s.folders, s.layouts = some(s.folders), some(s.layouts)
	}
	refused := s.setAside()
	ran := s.runAll()
	refused()
	ran += s.runAll()
	s.check([]string{"--log-format", "json", "vm", "list"})
	s.check([]string{"__complete", "snapshot", "inspect", ""})
	s.check([]string{"__complete", "vm", "inspect", ""})
	if ran < 400 && sample == nil {
		t.Errorf("only %d commands ran on %d snapshots and %d VMs", ran, len(s.snapshots), len(s.vms))
	}
}

// setAside leaves only what the program believes, for one document that is
// refused would hide all others from a list. Afterwards only the others are there.
func (s *hostileStore) setAside() (exchange func()) {
	believed := func(folder, noun string, ids []string) (yes, no []string) {
		for _, id := range ids {
			if run(s.t.Context(), []string{noun, "inspect", id}, io.Discard, io.Discard) == 0 {
				yes = append(yes, id)
				continue
			}
			no = append(no, id)
			s.move(filepath.Join(s.root, folder, id), "aside-"+folder+id)
		}
		return yes, no
	}
	var snapshots, vms []string
	s.snapshots, snapshots = believed("snapshots", "snapshot", s.snapshots)
	s.vms, vms = believed("vms", "vm", s.vms)
	if s.sample == nil && (len(s.snapshots) < 20 || len(s.vms) < 20) {
		s.t.Errorf("%d snapshots and %d VMs are believed: nothing of them would be printed", len(s.snapshots), len(s.vms))
	}
	return func() {
		for _, id := range snapshots {
			s.move("aside-snapshots"+id, filepath.Join(s.root, "snapshots", id))
		}
		for _, id := range vms {
			s.move("aside-vms"+id, filepath.Join(s.root, "vms", id))
		}
		s.snapshots, s.vms = snapshots, vms
	}
}

func (s *hostileStore) move(from, to string) {
	if err := os.Rename(from, to); err != nil {
		s.t.Fatal(err)
	}
}

func (s *hostileStore) runAll() (ran int) {
	for _, v := range hostileVerbs {
		if !s.taken(10) {
			continue
		}
		for _, args := range strings.Split(v.args, "|") {
			for _, line := range s.lines(v.verb + " " + args) {
				s.check(line)
				ran++
			}
		}
	}
	return ran
}

// inputs are what is imported and configured.
func (s *hostileStore) inputs() {
	key, err := json.Marshal(map[string]any{s.text: s.text})
	if err != nil {
		s.t.Fatal(err)
	}
	s.write("config.yaml", key, 0o600)
	s.write("values.yaml", s.set(s.set([]byte("{}"), "cniConfDir", s.text), "cpuArgs", s.text), 0o600)
	s.write("FILE", []byte(s.text), 0o600)
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Docker-Distribution-Api-Version", url.QueryEscape(s.text))
		w.WriteHeader(http.StatusBadRequest)
		fmt.Fprintf(w, `{"errors":[{"code":"DENIED","message":%s}]}`, key)
	}))
	s.t.Cleanup(server.Close)
	s.registry = strings.TrimPrefix(server.URL, "http://")
	s.folders = s.copies("folder", "config.json")
	s.layouts = s.copies("layout", "index.json")
	for _, path := range s.find("..", "layout", "blobs", "sha256", "*") {
		if b := s.read(path); len(b) < 16<<10 && json.Valid(b) {
			s.layouts = append(s.layouts, s.copies("layout", filepath.Join("blobs", "sha256", filepath.Base(path)))...)
		}
	}
}

// copies are folders as one is, but for one document, which is hostile.
func (s *hostileStore) copies(dir, doc string) (all []string) {
	s.each(s.read(filepath.Join(dir, doc)), func(where string, hostile []byte) {
		if s.field(hostile, "chConfig") != nil && where != "id" {
			hostile = s.set(hostile, "id", s.id()) // a snapshot of its own
		}
		to := fmt.Sprintf("%s-%d", dir, s.made)
		s.made++
		if out, err := exec.Command("cp", "-al", dir, to).CombinedOutput(); err != nil {
			s.t.Fatalf("%v: %s", err, out)
		}
		path := filepath.Join(to, doc)
		if err := os.Remove(path); err != nil {
			s.t.Fatal(err)
		}
		if filepath.Dir(doc) != "." { // a blob: what names it follows
			s.rename(to, filepath.Base(doc), hostile)
		} else {
			s.write(path, hostile, 0o600)
		}
		all = append(all, to)
	})
	return all
}

// rename puts a changed blob into a layout, and changes what names it up to the
// index.
func (s *hostileStore) rename(layout, old string, b []byte) {
	blobs := filepath.Join(layout, "blobs", "sha256")
	name := digest.FromBytes(b).Encoded()
	s.write(filepath.Join(blobs, name), b, 0o600)
	for path := s.naming(layout, old); path != ""; path = s.naming(layout, old) {
		changed := s.resized(bytes.ReplaceAll(s.read(path), []byte(old), []byte(name)), name, len(b))
		if err := os.Remove(path); err != nil {
			s.t.Fatal(err)
		}
		if filepath.Base(path) == "index.json" {
			s.write(path, changed, 0o600)
		} else {
			s.rename(layout, filepath.Base(path), changed)
		}
	}
}

// naming is a document of a layout that names a blob; the index comes last.
func (s *hostileStore) naming(layout, blob string) string {
	for _, path := range append(s.findIn(layout, "blobs", "sha256", "*"), filepath.Join(layout, "index.json")) {
		if doc := s.read(path); len(doc) < 16<<10 && json.Valid(doc) && bytes.Contains(doc, []byte(blob)) {
			return path
		}
	}
	return ""
}

// resized gives each descriptor of a blob its size.
func (s *hostileStore) resized(doc []byte, name string, size int) []byte {
	var v any
	if err := json.Unmarshal(doc, &v); err != nil {
		s.t.Fatal(err)
	}
	var walk func(v any)
	walk = func(v any) {
		switch v := v.(type) {
		case map[string]any:
			if v["digest"] == "sha256:"+name {
				v["size"] = size
			}
			for _, x := range v {
				walk(x)
			}
		case []any:
			for _, x := range v {
				walk(x)
			}
		}
	}
	walk(v)
	out, err := json.Marshal(v)
	if err != nil {
		s.t.Fatal(err)
	}
	return out
}

// lines makes command lines of one with placeholders.
func (s *hostileStore) lines(line string) (all [][]string) {
	var words []string
	first := "none" // a sample may have none
	if len(s.snapshots) > 0 {
		first = s.snapshots[0]
	}
	for _, w := range strings.Fields(line) {
		w = strings.ReplaceAll(w, "~", " ")
		switch w {
		case "SNAPSHOTS":
			words = append(words, s.snapshots...)
		case "VMS":
			words = append(words, s.vms...)
		case "IMAGES":
			for _, path := range s.find("images", "*.json") {
				words = append(words, strings.TrimSuffix(filepath.Base(path), ".json"))
			}
		case "DIGESTS":
			words = append(words, "sha256:"+filepath.Base(s.find("blobs", "sha256", strings.Repeat("[0-9a-f]", 64))[0]))
		default:
			words = append(words, strings.NewReplacer("SNAPSHOT0", first, "REGISTRY", s.registry, "TEXT", s.text).Replace(w))
		}
	}
	all = [][]string{words}
	all = s.spread(all, "SNAPSHOT", s.snapshots)
	all = s.spread(all, "FOLDER", s.folders)
	all = s.spread(all, "LAYOUT", s.layouts)
	all = s.spread(all, "SOME", some(s.snapshots))
	all = s.spread(all, "SOMEVM", some(s.vms))
	return s.spread(all, "VM", s.vms)
}

// some are few enough for verbs that write much.
func some(ids []string) (few []string) {
	for i := 0; i < len(ids); i += 17 {
		few = append(few, ids[i])
	}
	return few
}

// spread makes a line of each id, where a line asks for one.
func (s *hostileStore) spread(lines [][]string, word string, ids []string) (all [][]string) {
	for _, line := range lines {
		if !slices.ContainsFunc(line, func(w string) bool { return w == word || strings.HasSuffix(w, "-"+word) }) {
			all = append(all, line)
			continue
		}
		for _, id := range ids {
			one := slices.Clone(line)
			for i, w := range one {
				if w == word || strings.HasSuffix(w, "-"+word) {
					one[i] = strings.ReplaceAll(w, word, id)
				}
			}
			all = append(all, one)
		}
	}
	return all
}

// check runs one command and looks at all that it printed.
func (s *hostileStore) check(args []string) {
	s.t.Helper()
	var out, errOut bytes.Buffer
	code := run(s.t.Context(), args, &out, &errOut)
	what := fmt.Sprintf("cocoon %.300q (exit %d)", args, code)
	if code < 0 || code > 8 {
		s.t.Errorf("%s: no exit code of ours: %s", what, errOut.String())
	}
	for name, text := range map[string]string{"stdout": out.String(), "stderr": errOut.String()} {
		if bad := unsafeIn(text); bad != "" {
			s.t.Errorf("%s: %s has %s", what, name, bad)
		}
	}
	if text := strings.TrimSpace(out.String()); strings.HasPrefix(text, "{") || strings.HasPrefix(text, "[") {
		if bad := badJSON(text); bad != "" && !slices.Contains(args, "--format") || bad != "" && slices.Contains(args, "json") {
			s.t.Errorf("%s: %s", what, bad)
		}
	}
}

// unsafeIn names the first thing in text that is more than read.
func unsafeIn(text string) string {
	if !utf8.ValidString(text) {
		return fmt.Sprintf("invalid UTF-8: %.200q", text)
	}
	for line := range strings.Lines(text) {
		if strings.HasPrefix(strings.TrimLeft(line, " \t"), forgedRow) {
			return fmt.Sprintf("a forged line: %.200q", line)
		}
		for _, r := range strings.TrimSuffix(line, "\n") {
			if r != '\t' && !strconv.IsPrint(r) {
				return fmt.Sprintf("%q: %.200q", r, line)
			}
		}
	}
	return ""
}

// mayBeNull are keys of values, not of lists, that are null where there is none or
// none is known.
var mayBeNull = []string{"expires", "origin", "totalMs", "zeroBytes"}

// badJSON says why text is not what a script can go through.
func badJSON(text string) string {
	var v any
	d := json.NewDecoder(strings.NewReader(text))
	if err := d.Decode(&v); err != nil {
		return fmt.Sprintf("no JSON: %v: %.200q", err, text)
	}
	if d.More() {
		return "more than one JSON value"
	}
	bad := ""
	var walk func(where string, v any)
	walk = func(where string, v any) {
		switch v := v.(type) {
		case nil:
			if !slices.Contains(mayBeNull, where[strings.LastIndex(where, ".")+1:]) {
				bad = where + " is null"
			}
		case map[string]any:
			for k, x := range v {
				walk(where+"."+k, x)
			}
		case []any:
			for _, x := range v {
				walk(where+"[]", x)
			}
		}
	}
	walk("", v)
	return bad
}
