package main

import (
	"os"
	"strings"

	"github.com/rogpeppe/go-internal/testscript"

	"github.com/cocoonv2/cocoon/internal/test/registrytest"
)

// forge LAYOUT OUT EDIT…: a layout with other documents, all digests right; edits
// are PATH=JSON, PATH=@OTHER or -PATH (package registrytest).
func forge(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) < 2 {
		ts.Fatalf("usage: forge LAYOUT OUT EDIT…")
	}
	l := forged(ts, args[0], args[2:])
	d, err := l.Save(ts.MkAbs(args[1]))
	ts.Check(err)
	ts.Logf("%s", d)
}

// plant VAR LAYOUT META EDIT…: the forgery is in the store, unjudged, with this
// meta.json; its id is in VAR.
func plant(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) < 3 {
		ts.Fatalf("usage: plant VAR LAYOUT META EDIT…")
	}
	id, err := forged(ts, args[1], args[3:]).Plant(ts.Getenv("COCOON_ROOT_DIR"), args[2])
	ts.Check(err)
	ts.Setenv(args[0], id)
}

func forged(ts *testscript.TestScript, layout string, edits []string) *registrytest.Layout {
	l, err := registrytest.Load(ts.MkAbs(layout))
	ts.Check(err)
	for _, e := range edits {
		ts.Check(l.Edit(strings.ReplaceAll(e, "$WORK", ts.Getenv("WORK"))))
	}
	return l
}

// replaces FILE OLD NEW: in the text of a file, where it has to be.
func replaces(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 3 {
		ts.Fatalf("usage: replaces FILE OLD NEW")
	}
	path := ts.MkAbs(args[0])
	text := ts.ReadFile(path)
	if !strings.Contains(text, args[1]) {
		ts.Fatalf("%s has no %q: %s", path, args[1], text)
	}
	ts.Check(os.WriteFile(path, []byte(strings.Replace(text, args[1], args[2], 1)), 0o600))
}
