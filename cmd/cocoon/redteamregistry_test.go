package main

import (
	"bytes"
	"fmt"
	"io"
	"log"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"

	"github.com/google/go-containerregistry/pkg/registry"

	"github.com/cocoonv2/cocoon/internal/test/chsnaptest"
)

// liar stands before a registry and changes one answer in each round.
type liar struct {
	inner  http.Handler
	canary string

	mu    sync.Mutex
	rng   *rand.Rand
	after int    // so many answers are honest
	lie   string // what was done, for the log
}

// registryLies are told, each on a whole answer.
var registryLies = []struct {
	name string
	tell func(l *liar, w *answer)
}{
	{"one bit", func(l *liar, w *answer) {
		if b := w.body.Bytes(); len(b) > 0 {
			b[l.rng.IntN(len(b))] ^= 1 << l.rng.IntN(8)
		}
	}},
	{"cut", func(l *liar, w *answer) { w.body.Truncate(l.rng.IntN(w.body.Len() + 1)) }},
	{"trailing bytes", func(_ *liar, w *answer) { w.body.WriteString("trailing") }},
	{"another length", func(_ *liar, w *answer) { w.header.Set("Content-Length", "7") }},
	{"another digest", func(_ *liar, w *answer) {
		w.header.Set("Docker-Content-Digest", "sha256:"+strings.Repeat("0", 64))
	}},
	{"another media type", func(_ *liar, w *answer) { w.header.Set("Content-Type", "text/html\x1b[2J") }},
	{"a file as redirect", func(l *liar, w *answer) {
		w.code = http.StatusFound
		w.header.Set("Location", "file://"+l.canary)
	}},
	{"an endless redirect", func(_ *liar, w *answer) {
		w.code = http.StatusTemporaryRedirect
		w.header.Set("Location", "/v2/")
	}},
	{"a token service elsewhere", func(_ *liar, w *answer) {
		w.code = http.StatusUnauthorized
		w.header.Set("Www-Authenticate", `Bearer realm="http://127.0.0.1:1/token",service="x"`)
	}},
	{"an error full of escapes", func(_ *liar, w *answer) {
		w.code = http.StatusForbidden
		w.body.Reset()
		w.body.WriteString(`{"errors":[{"code":"DENIED","message":"\u001b[2J\u001b]0;x\u0007\r\nrow"}]}`)
	}},
	{"a manifest of another kind", func(_ *liar, w *answer) {
		w.body.Reset()
		w.body.WriteString(`{"schemaVersion":2,"mediaType":"application/vnd.oci.image.index.v1+json","manifests":[]}`)
	}},
	{"nothing", func(_ *liar, w *answer) { w.body.Reset() }},
	{"not found", func(_ *liar, w *answer) { w.code = http.StatusNotFound }},
}

// answer is a response that is changed before it is sent.
type answer struct {
	header http.Header
	code   int
	body   bytes.Buffer
}

func (a *answer) Header() http.Header         { return a.header }
func (a *answer) WriteHeader(code int)        { a.code = code }
func (a *answer) Write(b []byte) (int, error) { return a.body.Write(b) }

func (l *liar) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	a := &answer{header: http.Header{}, code: http.StatusOK}
	l.inner.ServeHTTP(a, r)
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.after--; l.after == -1 {
		lie := registryLies[l.rng.IntN(len(registryLies))]
		l.lie = fmt.Sprintf("%s to %s %s", lie.name, r.Method, r.URL.Path)
		lie.tell(l, a)
	}
	for k, v := range a.header {
		w.Header()[k] = v
	}
	w.WriteHeader(a.code)
	_, _ = io.Copy(w, &a.body) // a length that is a lie ends it
}

// TestRedTeamOfARegistry: one answer of each pull is a lie. Either the snapshot is
// here and is what was asked for, or there is an error and nothing is left.
func TestRedTeamOfARegistry(t *testing.T) {
	t.Parallel()
	vmm := chsnaptest.Build(t)
	h := newHost(t, vmm, "COCOON_REGISTRY_TIMEOUT=5s")
	seed, rounds := redTeamRun()
	l := &liar{inner: registry.New(registry.Logger(log.New(io.Discard, "", 0))), canary: filepath.Join(h.work, "canary"), rng: rand.New(rand.NewPCG(seed, 1)), after: 1 << 30}
	s := httptest.NewServer(l)
	defer s.Close()
	if err := os.WriteFile(l.canary, []byte("HOSTFILE"), 0o600); err != nil {
		t.Fatal(err)
	}
	ref := strings.TrimPrefix(s.URL, "http://") + "/vm/web:v1"
	h.boot("web")
	h.must("snapshot", "create", "web", "base")
	h.must("snapshot", "push", "base", ref)
	id := h.must("snapshot", "list", "-q", "--no-trunc")
	h.must("vm", "rm", "--force", "web")
	h.must("snapshot", "rm", "base")
	h.must("gc")
	t.Logf("COCOON_REDTEAM_SEED=%d, %d pulls", seed, rounds)
	came := 0
	for range rounds {
		l.mu.Lock()
		l.after, l.lie = l.rng.IntN(14), ""
		l.mu.Unlock()
		c, out, stderr := h.command([]string{"snapshot", "pull", ref, "pulled"})
		_ = c.Run() // the exit code is looked at
		code := c.ProcessState.ExitCode()
		if text := stderr.String(); code < 0 || strings.Contains(text, "goroutine ") || strings.ContainsRune(text, 0x1b) || strings.Contains(text, "HOSTFILE") {
			t.Errorf("%s: exit code %d: %q", l.lie, code, text)
		}
		switch {
		case code == 0:
			came++
			if got := strings.TrimSpace(out.String()); got != id {
				t.Errorf("%s: pulled %s, want %s", l.lie, got, id)
			}
			h.must("snapshot", "verify", "--all", "--read-data")
			h.must("snapshot", "rm", "pulled")
		case h.must("snapshot", "list", "-q") != "":
			t.Errorf("%s: exit code %d, and a snapshot is here", l.lie, code)
		}
		h.must("gc")
		h.bare()
		if t.Failed() {
			t.FailNow()
		}
	}
	t.Logf("%d of %d pulls came through a lie that cost nothing, or that was asked again", came, rounds)
}

// redTeamRun is the seed of a run and how many forgeries it has.
func redTeamRun() (seed uint64, count int) {
	seed, count = 1, redTeamSlice
	if s := os.Getenv("COCOON_REDTEAM_SEED"); s != "" {
		seed, _ = strconv.ParseUint(s, 10, 64)
	}
	if s := os.Getenv("COCOON_REDTEAM"); s != "" {
		count, _ = strconv.Atoi(s)
	}
	return seed, count
}
