package layout

import (
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"path/filepath"
	"strings"
	"testing"
)

// fixedTimes are the files, and the rooms, that name a time of their own, each
// with the reason why nothing fails that only needed longer. Whatever else waits
// for another process takes its bound from package patience.
var fixedTimes = map[string]string{
	"internal/base/patience/patience.go": "there the bounds are made",

	"chsnap/capture.go": "pauses between two questions", "chsnap/live.go": "pauses between two questions",
	"internal/engine/vm/launch.go": "pauses between two questions", "internal/engine/vm/seat.go": "pauses between two looks",
	"internal/engine/vm/process.go": "pauses between two looks", "network/tap.go": "pauses between two looks",
	"internal/base/filelock/filelock.go": "pauses between two tries", "internal/base/filelock/pair.go": "turns that are taken again",
	"internal/engine/keeper/watch.go":    "pauses between two looks; how much is known of an end",
	"internal/engine/keeper/takeover.go": "for a lock that is held for an instant by who asks", "internal/engine/registry/waiting.go": "pauses between two looks",
	"internal/engine/demo/demo.go": "ten minutes for a tick that takes milliseconds", "cmd/cocoon/vm.go": "pauses between two looks at a log",

	"internal/engine/vm/life.go":  "a guest's time to power off is the operator's (vmStopTimeout); a rung of the ladder that ends a VMM is followed by the next, ruder one",
	"internal/engine/vm/vsock.go": "a listener whose queue is full is one that listens",

	"network/arp.go": "a question that nobody needs to answer", "network/gateways.go": "a question that nobody needs to answer",
	"network/pluginexec.go": "output that a plugin's child keeps open when the plugin has ended",
	"store/repair/blobs.go": "for another gc: busy, try again", "store/lease/read.go": "for a gc: busy, try again",
	"internal/engine/registry/client.go": "of registries, see transfer.md", "internal/engine/registry/patience.go": "of registries, see transfer.md",

	"store/index/index.go": "resolution of file times", "gc/roots.go": "resolution of file times", "internal/engine/capture/livedisk.go": "resolution of file times",
	"internal/engine/prints/prints.go": "arithmetic", "internal/base/config/parse.go": "arithmetic", "internal/base/filelock/whoholds.go": "arithmetic", "gc/policy/keep.go": "arithmetic", "gc/window.go": "lets others have the lock",
	"internal/engine/capture/disks.go": "chooses between two ways that are both right",
	"cmd/cocoon/progress.go":           "how often progress is told", "cmd/cocoon/signals.go": "when it is told that something is undone",

	"gc/gc.go": "how long what is doubtful stays", "internal/engine/house/waits.go": "when it is told that a lock is waited for",

	"internal/test/bench/": "measures", "internal/test/benchvmm/": "measures", "internal/test/linuxguests/": "a lab",
	"internal/test/leaktest/": "tests", "internal/test/networktest/": "tests", "internal/test/chsnaptest/": "tests",
}

// TestNoWaitIsMadeUp: a time that is written down somewhere is a time-out that no
// operator can raise, until somebody has said why it is none.
func TestNoWaitIsMadeUp(t *testing.T) {
	root := filepath.Join("..", "..", "..")
	used := map[string]bool{}
	err := filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() || !strings.HasSuffix(path, ".go") || strings.HasSuffix(path, "_test.go") {
			return err
		}
		rel, err := filepath.Rel(root, path)
		if err != nil {
			return err
		}
		file, err := parser.ParseFile(token.NewFileSet(), path, nil, 0)
		if err != nil || !namesATime(file) {
			return err
		}
		for listed := range fixedTimes {
			if rel == listed || strings.HasSuffix(listed, "/") && strings.HasPrefix(rel, listed) {
				used[listed] = true
				return nil
			}
		}
		t.Errorf("%s names a time: take it from package patience, or say in fixedTimes why nothing fails by it", rel)
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	for listed := range fixedTimes {
		if !used[listed] {
			t.Errorf("%s is listed and names no time", listed)
		}
	}
}

// namesATime: time.Second and its like, not time.Microsecond, which converts.
func namesATime(file *ast.File) (found bool) {
	ast.Inspect(file, func(n ast.Node) bool {
		if s, ok := n.(*ast.SelectorExpr); ok {
			if pkg, ok := s.X.(*ast.Ident); ok && pkg.Name == "time" {
				switch s.Sel.Name {
				case "Millisecond", "Second", "Minute", "Hour":
					found = true
				}
			}
		}
		return !found
	})
	return found
}
