package main

import (
	"bytes"
	"context"
	"encoding/json"
	"os"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/prometheus/common/expfmt"
	"github.com/prometheus/common/model"
	"github.com/rogpeppe/go-internal/testscript"

	"github.com/cocoonv2/cocoon/gc"
	"github.com/cocoonv2/cocoon/store"
)

func TestASnapshotInUseStaysAndTheRestGoes(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("cocoon refuses to run without root")
	}
	ctx, root := context.Background(), t.TempDir()+"/root"
	st, err := store.Open(ctx, root, store.Options{Create: true})
	if err != nil {
		t.Fatal(err)
	}
	lease, err := st.Lease(ctx, "a restore")
	if err != nil {
		t.Fatal(err)
	}
	defer lease.Release()
	var ids []store.ID
	for day := 1; day <= 3; day++ {
		ids = append(ids, publishEmpty(t, st, lease, time.Date(2026, 1, day, 0, 0, 0, 0, time.UTC)))
	}
	if err := lease.HoldSnapshot(ctx, ids[0]); err != nil {
		t.Fatal(err)
	}
	var out, errOut bytes.Buffer
	if code := run(ctx, []string{"--root-dir", root, "snapshot", "prune", "--keep-last", "1"}, &out, &errOut); code != 4 {
		t.Errorf("exit code %d, want 4: %s", code, &errOut)
	}
	if !strings.Contains(errOut.String(), "in use by: a restore") {
		t.Errorf("stderr does not say who uses it: %s", &errOut)
	}
	for i, want := range []string{"not removed  " + string(ids[0][:12]), "removed      " + string(ids[1][:12]), "kept         " + string(ids[2][:12])} {
		if !strings.Contains(out.String(), want) {
			t.Errorf("snapshot %d: no %q in\n%s", i, want, &out)
		}
		if _, err := st.Get(ctx, ids[i]); (err == nil) == (i == 1) {
			t.Errorf("snapshot %d after prune: %v", i, err)
		}
	}
}

func publishEmpty(t *testing.T, st *store.Store, lease *store.Lease, created time.Time) store.ID {
	t.Helper()
	ctx := context.Background()
	in, err := st.Ingest(ctx, lease)
	if err != nil {
		t.Fatal(err)
	}
	d, err := in.Put(ctx, store.MediaTypeCHConfig, []byte("{}"))
	if err != nil {
		t.Fatal(err)
	}
	sn, err := in.Commit(ctx, store.Spec{Created: created, CHConfig: d.Digest, CHState: d.Digest}, store.Meta{})
	if err != nil {
		t.Fatal(err)
	}
	return sn.ID
}

// samePlan DRY DONE: two JSON reports of gc name the same objects and bytes.
func samePlan(ts *testscript.TestScript, neg bool, args []string) {
	objects := func(file string) (list []string, bytes int64) {
		var rep gc.Report
		ts.Check(json.Unmarshal([]byte(ts.ReadFile(file)), &rep))
		for _, r := range rep.Removed {
			list = append(list, string(r.Kind)+" "+r.ID+" "+strconv.FormatInt(r.Bytes, 10))
		}
		slices.Sort(list)
		return list, rep.ReclaimedBytes
	}
	dry, dryBytes := objects(args[0])
	done, doneBytes := objects(args[1])
	if diff := cmp.Diff(dry, done); diff != "" || dryBytes != doneBytes || len(dry) == 0 {
		ts.Fatalf("plans differ (-%s +%s): %d and %d bytes\n%s", args[0], args[1], dryBytes, doneBytes, diff)
	}
}

// prometheus FILE NAME VALUE: the file is valid exposition text, the gauge has
// this value, and every sample by kind that operators chart is there.
func prometheus(ts *testscript.TestScript, neg bool, args []string) {
	parser := expfmt.NewTextParser(model.UTF8Validation)
	families, err := parser.TextToMetricFamilies(strings.NewReader(ts.ReadFile(args[0])))
	ts.Check(err)
	for _, name := range []string{
		"cocoon_gc_last_run_timestamp_seconds", "cocoon_gc_last_run_success", "cocoon_gc_duration_seconds",
		"cocoon_gc_freed_bytes", "cocoon_gc_removed_objects",
		"cocoon_store_bytes", "cocoon_store_free_bytes", "cocoon_store_snapshots", "cocoon_store_damaged_objects",
	} {
		if f := families[name]; f == nil || len(f.GetMetric()) == 0 || f.GetHelp() == "" {
			ts.Fatalf("%s: %s is missing or has no help", args[0], name)
		}
	}
	got := families[args[1]].GetMetric()[0].GetGauge().GetValue()
	if want, err := strconv.ParseFloat(args[2], 64); err != nil || got != want {
		ts.Fatalf("%s is %v, want %s", args[1], got, args[2])
	}
}
