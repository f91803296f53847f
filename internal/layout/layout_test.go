package layout

import (
	"go/parser"
	"go/token"
	"io/fs"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
)

const module = "github.com/cocoonv2/cocoon/"

// floors, longest prefix wins. A room imports rooms of its own floor or below,
// never above; same-floor imports are listed in sideways.
var floors = map[string]int{
	".": 4, "testdata": 4, "cmd": 4, "internal/bench": 4, "internal/benchvmm": 4, "internal/linuxguests": 4,
	"gc": 3, "restore": 3, "internal/capture": 3, "internal/house": 3,
	"store": 2, "internal/vm": 2, "internal/image": 2, "internal/prints": 2, "internal/registry": 2, "internal/doctor": 2, "internal/layout": 2,
	"refs": 1, "chsnap": 1, "network": 1, "internal/listing": 1, "internal/screen": 0, "internal/demo": 1, "internal/runfolder": 1,
	"internal/durable": 0, "internal/filelock": 0, "internal/guest": 0, "internal/failure": 0,
	"internal/account": 0, "internal/diskformat": 0, "internal/private": 0, "internal/owner": 0, "internal/clone": 0, "internal/leaktest": 0, "internal/programtest": 0, "internal/ramgen": 0, "internal/pagehash": 0, "internal/mapped": 0, "internal/spelling": 0, "internal/immutable": 0, "internal/keyring": 0, "internal/fingerprint": 0, "internal/patience": 0, "internal/hostfacts": 0, "internal/config": 1, "internal/keeper": 1, "gc/policy": 0, "gc/garbage": 0,
}

// only lists libraries that one room may import (tests included nowhere else).
var only = map[string][]string{
	"go.etcd.io/bbolt":                   {"refs"},
	"github.com/klauspost/compress/zstd": {"store/pack"},
	"github.com/containernetworking/":    {"network"},
	"github.com/vishvananda/netlink":     {"network"},
	"github.com/google/nftables":         {"network"},
	"github.com/spf13/cobra":             {"cmd"},
	"oras.land/oras-go":                  {"internal/registry"},
}

// never lists pairs that must not meet.
var never = [][2]string{{"gc", "restore"}, {"restore", "gc"}, {"store", "chsnap"}, {"refs", "store"}, {"gc", "internal/capture"}, {"gc", "internal/vm"}, {"gc", "internal/image"}, {"gc", "network"}, {"gc", "internal/runfolder"}, {"gc", "internal/prints"}, {"gc", "internal/owner"}}

// words is what rooms speak with the collector without knowing it.
const words = "gc/garbage"

func TestImportsOnlyPointDown(t *testing.T) {
	root := filepath.Join("..", "..")
	files := 0
	err := filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() || !strings.HasSuffix(path, ".go") || strings.HasSuffix(path, "_test.go") {
			return err
		}
		files++
		rel, err := filepath.Rel(root, filepath.Dir(path))
		if err != nil {
			return err
		}
		f, err := parser.ParseFile(token.NewFileSet(), path, nil, parser.ImportsOnly)
		if err != nil {
			return err
		}
		for _, im := range f.Imports {
			target, err := strconv.Unquote(im.Path.Value)
			if err != nil {
				return err
			}
			check(t, path, rel, target)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if files < 20 {
		t.Fatalf("only %d files read: the walk does not see the tree", files)
	}
}

func check(t *testing.T, path, from, target string) {
	t.Helper()
	for lib, rooms := range only {
		if strings.HasPrefix(target, lib) && !within(from, rooms) {
			t.Errorf("%s imports %s: only %v may", path, target, rooms)
		}
	}
	to, ours := strings.CutPrefix(target, module)
	if target+"/" == module {
		to, ours = ".", true
	}
	if !ours {
		return
	}
	if floor(t, from) < floor(t, to) {
		t.Errorf("%s (floor %d) imports %s (floor %d): imports point down", path, floor(t, from), to, floor(t, to))
	}
	for _, n := range never {
		if to == words {
			break
		}
		if within(from, n[:1]) && within(to, n[1:]) {
			t.Errorf("%s imports %s: %s and %s never meet", path, to, n[0], n[1])
		}
	}
}

func within(dir string, rooms []string) bool {
	for _, r := range rooms {
		if dir == r || strings.HasPrefix(dir, r+"/") {
			return true
		}
	}
	return false
}

func floor(t *testing.T, dir string) int {
	t.Helper()
	if dir == "." {
		return floors[dir]
	}
	for d := dir; d != "."; d = filepath.Dir(d) {
		if f, ok := floors[d]; ok {
			return f
		}
	}
	t.Errorf("%s stands on no floor: name it in floors", dir)
	return 0
}
