package capture

import (
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/opencontainers/go-digest"

	"github.com/cocoonv2/cocoon/internal/base/failure"
	"github.com/cocoonv2/cocoon/internal/engine/image"
	"github.com/cocoonv2/cocoon/internal/engine/vm"
	"github.com/cocoonv2/cocoon/store"
	"github.com/cocoonv2/cocoon/store/sleep"
)

// answers are what a VMM says of itself and of its VM; nothing else is asked of it
// before a guest is touched.
type answers struct {
	version, state, memory, more string
	disks                        []string
	silent                       bool
}

// preflightLab is a VM that only its record and a socket's answers make.
type preflightLab struct {
	saver *Saver
	rec   *vm.Record
	asked atomic.Int64
}

func newPreflightLab(t *testing.T, a answers) *preflightLab {
	t.Helper()
	st, err := store.Open(t.Context(), filepath.Join(t.TempDir(), "root"), store.Options{Create: true})
	if err != nil {
		t.Fatal(err)
	}
	run, err := os.MkdirTemp("", "cp") // short: socket paths end at 108 bytes
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(run) })
	vms := vm.New(st, image.New(st), vm.Options{RunDir: run})
	kernel := store.ImageRef{Digest: digest.FromString("kernel"), Role: "kernel", Bytes: 6}
	l := &preflightLab{saver: &Saver{Store: st, VMs: vms}, rec: &vm.Record{
		ID: web.ID, Name: "web", State: "running", CPUs: 1, MemoryBytes: 64 << 20, Kernel: &kernel, Images: []digest.Digest{kernel.Digest},
		Disks:   []vm.Disk{{DeviceID: "_disk0", File: "disk-0.raw", Bytes: 1 << 20}},
		Process: &vm.Process{APISocket: filepath.Join(run, "api.sock")},
	}}
	disk := filepath.Join(vms.Dir(web.ID), "disk-0.raw")
	if err := errors.Join(os.MkdirAll(filepath.Dir(disk), 0o700), os.WriteFile(disk, make([]byte, 1<<20), 0o600)); err != nil {
		t.Fatal(err)
	}
	if a.disks == nil {
		a.disks = []string{"_disk0"}
	}
	var disks []map[string]string
	for _, id := range a.disks {
		disks = append(disks, map[string]string{"id": id, "path": disk})
	}
	list, err := json.Marshal(disks)
	if err != nil {
		t.Fatal(err)
	}
	l.serve(t, a, fmt.Sprintf(`{"cpus":{"boot_vcpus":1},"memory":{"size":67108864%s},"payload":{"kernel":"/k"},"disks":%s%s}`, a.memory, list, a.more))
	return l
}

func (l *preflightLab) serve(t *testing.T, a answers, config string) {
	t.Helper()
	if a.silent {
		return
	}
	listener, err := net.Listen("unix", l.rec.Process.APISocket)
	if err != nil {
		t.Fatal(err)
	}
	mux := http.NewServeMux()
	mux.HandleFunc("GET /api/v1/vm.info", func(w http.ResponseWriter, _ *http.Request) {
		fmt.Fprintf(w, `{"state":%q,"config":%s}`, a.state, config)
	})
	mux.HandleFunc("GET /api/v1/vmm.ping", func(w http.ResponseWriter, _ *http.Request) {
		fmt.Fprintf(w, `{"version":%q}`, a.version)
	})
	server := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		l.asked.Add(1)
		if _, known := mux.Handler(r); known == "" {
			t.Errorf("the VMM was asked %s %s", r.Method, r.URL.Path)
		}
		mux.ServeHTTP(w, r)
	})}
	done := make(chan struct{})
	go func() {
		defer close(done)
		_ = server.Serve(listener) // ends by Close
	}()
	t.Cleanup(func() { server.Close(); <-done })
}

// TestEveryRefusalComesBeforeTheGuestIsTouched: a capture asks the VMM what it is
// and has, and no more, and decides by that.
func TestEveryRefusalComesBeforeTheGuestIsTouched(t *testing.T) {
	running := answers{version: "53.0.0", state: "Running"}
	with := func(change func(*answers)) answers {
		a := running
		change(&a)
		return a
	}
	shared := with(func(a *answers) { a.memory = `,"shared":true` })
	for name, c := range map[string]struct {
		vmm   answers
		rec   vm.State // of the record, "" is running
		req   Request
		mode  string   // that is chosen, "" of a refusal
		state vm.State // of the guest, as it will be left
		class error
		says  string // by the refusal, its hint or a note
		asked bool
	}{
		"live by itself":                   {running, "", Request{}, Live, "running", nil, "", true},
		"live as asked":                    {running, "", Request{Mode: Live}, Live, "running", nil, "", true},
		"file as asked":                    {running, "", Request{Mode: File}, File, "running", nil, "", true},
		"a guest that somebody paused":     {with(func(a *answers) { a.state = "Paused" }), "", Request{}, Live, "paused", nil, "", true},
		"shared memory goes by file":       {shared, "", Request{}, File, "running", nil, "memory is shared", true},
		"shared memory, live":              {shared, "", Request{Mode: Live}, "", "", failure.Incompatible, "--capture file", true},
		"a VMM that is too old for live":   {with(func(a *answers) { a.version = "40.0.0" }), "", Request{}, File, "running", nil, "cannot stream", true},
		"a guest that shut itself down":    {with(func(a *answers) { a.state = "Shutdown" }), "", Request{}, "", "", failure.Conflict, "shut down", true},
		"a disk that cocoon did not give":  {with(func(a *answers) { a.disks = []string{"_disk0", "_disk7"} }), "", Request{}, "", "", failure.Incompatible, "_disk7", true},
		"a disk that was taken away":       {with(func(a *answers) { a.disks = []string{} }), "", Request{}, "", "", failure.Incompatible, "removed from the running VM", true},
		"a VMM that confines itself, file": {with(func(a *answers) { a.more = `,"landlock_enable":true` }), "", Request{Mode: File}, "", "", failure.Incompatible, "Landlock", true},
		"a VMM that confines itself, live": {with(func(a *answers) { a.more = `,"landlock_enable":true` }), "", Request{}, Live, "running", nil, "", true},
		"a VMM that does not listen":       {with(func(a *answers) { a.silent = true }), "", Request{}, "", "", failure.Conflict, "ask VM web", false},
		"no such mode":                     {running, "", Request{Mode: "warp"}, "", "", failure.Usage, "warp", false},
		"a VM that is stopped":             {running, "stopped", Request{}, "", "", failure.Conflict, "cocoon vm start web", false},
		"a name that is taken":             {running, "", Request{Name: "taken"}, "", "", failure.Conflict, "--replace", false},
		"a name that is taken over":        {running, "", Request{Name: "taken", Replace: true}, Live, "running", nil, "", true},
		"a name that is none":              {running, "", Request{Name: "no/name"}, "", "", failure.Usage, "no/name", false},
		"a parent that is not there":       {running, "", Request{Parent: "nobody"}, "", "", failure.NotFound, "nobody", true},
		"a parent that is there":           {running, "", Request{Parent: "taken"}, Live, "running", nil, "", true},
		"a label that is cocoon's own":     {running, "", Request{Labels: map[string]string{sleep.Label: "x"}}, "", "", failure.Usage, "label", false},
	} {
		t.Run(name, func(t *testing.T) {
			l := newPreflightLab(t, c.vmm)
			parents := &parentLab{t: t, st: l.saver.Store}
			parents.add(l.saver.Store, "taken", web, nil)
			if c.rec != "" {
				l.rec.State = c.rec
			}
			var told []string
			c.req.OnNote = func(text string) { told = append(told, text) }
			s := begin(l.saver, c.req, l.rec, nil)
			err := s.check(t.Context())
			said := fmt.Sprint(told)
			if err != nil {
				said += err.Error() + failure.HintOf(err)
			}
			if !errors.Is(err, c.class) || !strings.Contains(said, c.says) {
				t.Fatalf("%v (%s), want class %v that says %q", err, said, c.class, c.says)
			}
			if asked := l.asked.Load() > 0; asked != c.asked {
				t.Errorf("the VMM was asked: %v", asked)
			}
			if err == nil && (s.mode != c.mode || s.rec.State != c.state) {
				t.Errorf("mode %s, guest %s", s.mode, s.rec.State)
			}
		})
	}
}
