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
// never above, and of its own only those that sideways lists.
var floors = map[string]int{
	"internal/base": 0, "gc/policy": 0, "gc/garbage": 0,
	"refs": 1, "chsnap": 1, "network": 1, "store/keyring": 1, "store/pack": 1, "store/contents": 1, "store/document": 1, "store/index": 1, "store/layout": 1, "store/lease": 1, "store/names": 1, "store/space": 1, "store/trash": 1,
	"store":           2,
	"internal/engine": 3, "store/measure": 3, "store/ramcache": 3, "store/repack": 3, "store/repair": 3, "store/sleep": 3,
	"gc": 4, "restore": 4, "internal/engine/capture": 4, "internal/engine/registry": 4, "internal/engine/doctor": 4,
	"internal/engine/house": 5, "internal/engine/demo": 5,
	".": 6, "cmd": 6,
	"internal/test": testFloor, "testdata": testFloor,
}

// testFloor is above all others: no room of the product imports from there.
const testFloor = 7

// sideways lists what rooms of one floor import from each other. Rooms within one
// room of the list of floors (store/pack, chsnap) are listed too.
var sideways = map[string][]string{
	"internal/base/clone":       {"failure"},
	"internal/base/config":      {"failure"},
	"internal/base/durable":     {"failure"},
	"internal/base/filelock":    {"failure"},
	"internal/base/spelling":    {"failure"},
	"internal/base/listing":     {"failure", "screen"},
	"internal/base/account":     {"failure", "durable"},
	"internal/base/fingerprint": {"durable", "filelock"},
	"internal/base/owner":       {"failure", "durable", "spelling"},
	"internal/base/runfolder":   {"failure", "durable", "filelock", "hint", "owner", "private", "spelling"},
	"gc/garbage":                {"internal/base/durable"},
	"chsnap":                    {"chsnap/migration"},
	"store/contents":            {"store/document", "store/keyring", "store/pack"},
	"store/document":            {"store/keyring"},
	"store/index":               {"refs", "store/document", "store/layout"},
	"store/layout":              {"store/pack", "store/keyring"},
	"store/lease":               {"store/layout"},
	"store/names":               {"store/layout"},
	"store/pack":                {"store/keyring"},
	"store/pack/packer":         {"store/pack", "store/keyring"},
	"store/repair":              {"store/repack"},
	"store/space":               {"store/layout", "store/pack"},
	"store/trash":               {"store/layout"},
	"internal/engine/vm":        {"keeper", "store/sleep"},
}

// only lists libraries that one room may import (tests included nowhere else).
var only = map[string][]string{
	"go.etcd.io/bbolt":                   {"refs"},
	"github.com/klauspost/compress/zstd": {"store/pack"},
	"github.com/containernetworking/":    {"network"},
	"github.com/vishvananda/netlink":     {"network", "internal/test/networktest"},
	"github.com/google/nftables":         {"network", "internal/test/networktest"},
	"github.com/spf13/cobra":             {"cmd"},
	"oras.land/oras-go":                  {"internal/engine/registry"},
}

// never lists pairs that must not meet.
var never = [][2]string{{"gc", "restore"}, {"restore", "gc"}, {"store", "chsnap"}, {"refs", "store"}, {"gc", "internal/engine/capture"}, {"gc", "internal/engine/vm"}, {"gc", "internal/engine/image"}, {"gc", "network"}, {"gc", "internal/base/runfolder"}, {"gc", "internal/engine/prints"}, {"gc", "internal/base/owner"}}

// words is what rooms speak with the collector without knowing it.
const words = "gc/garbage"

func TestImportsOnlyPointDown(t *testing.T) {
	root := filepath.Join("..", "..", "..")
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
	switch f, g := floor(t, from), floor(t, to); {
	case f < g:
		t.Errorf("%s (floor %d) imports %s (floor %d): imports point down", path, f, to, g)
	case f == g && f < testFloor && !beside(from, to):
		t.Errorf("%s imports %s of the same floor: name it in sideways, if that must be", path, to)
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

// beside says whether from may import to of the same floor.
func beside(from, to string) bool {
	for _, room := range sideways[from] {
		if to == room || to == filepath.Join(filepath.Dir(from), room) {
			return true
		}
	}
	return false
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
