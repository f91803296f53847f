package registry

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	ggcr "github.com/google/go-containerregistry/pkg/registry"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/cocoonv2/cocoon/internal/base/failure"
	"github.com/cocoonv2/cocoon/store"
)

// pauses are those that a mover would have made between tries; it makes none.
type pauses struct {
	mu  sync.Mutex
	all []time.Duration
}

func (p *pauses) pause(ctx context.Context, d time.Duration) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.all = append(p.all, d)
	return ctx.Err()
}

func (p *pauses) longest() (d time.Duration) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, x := range p.all {
		d = max(d, x)
	}
	return d
}

func hasty(t *testing.T) (*Mover, *pauses) {
	m, p := newMover(t), &pauses{}
	m.pause = p.pause
	return m, p
}

// kindOf an exchange: what a fault strikes once.
func kindOf(r *http.Request) string {
	for _, part := range []string{"/blobs/uploads/", "/blobs/", "/manifests/", "/referrers/"} {
		if strings.Contains(r.URL.Path, part) {
			return r.Method + " " + strings.Trim(part, "/")
		}
	}
	return r.Method
}

// once lets a fault strike the first exchange of each kind and path, and counts.
func once(fault http.HandlerFunc) (struck *atomic.Int64, f func(http.ResponseWriter, *http.Request) bool) {
	struck = &atomic.Int64{}
	var mu sync.Mutex
	seen := map[string]bool{}
	return struck, func(w http.ResponseWriter, r *http.Request) bool {
		mu.Lock()
		first := !seen[kindOf(r)]
		seen[kindOf(r)] = true
		mu.Unlock()
		if first {
			struck.Add(1)
			fault(w, r)
		}
		return first
	}
}

func cut(w http.ResponseWriter, r *http.Request) {
	_, _ = io.CopyN(io.Discard, r.Body, 1000)
	c, _, err := w.(http.Hijacker).Hijack()
	if err == nil {
		c.Close()
	}
}

func answer(status int, header ...string) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) {
		for i := 0; i+1 < len(header); i += 2 {
			w.Header().Set(header[i], header[i+1])
		}
		w.WriteHeader(status)
	}
}

// TestEveryExchangeIsTriedAgain: a fault that passes strikes each kind of exchange
// once, of a push and of a pull.
func TestEveryExchangeIsTriedAgain(t *testing.T) {
	for name, fault := range map[string]http.HandlerFunc{
		"429, wait":   answer(429, "Retry-After", "7"),
		"429":         answer(429),
		"500":         answer(500),
		"502":         answer(502),
		"503, wait":   answer(503, "Retry-After", "7"),
		"504":         answer(504),
		"408":         answer(408),
		"cut at once": cut,
	} {
		t.Run(name, func(t *testing.T) {
			a, pushed := hasty(t)
			b, pulled := hasty(t)
			sn := publish(t, a, "first", nil)
			struck, f := once(fault)
			target := faulty(t, f, ggcr.WithReferrersSupport(true)) + "/web:v1"
			if _, err := a.Push(t.Context(), "first", target, true); err != nil {
				t.Fatalf("push: %v", err)
			}
			got, err := b.Pull(t.Context(), target, PullOptions{})
			if err != nil {
				t.Fatalf("pull: %v", err)
			}
			same(t, b, sn, got)
			if n := struck.Load(); n < 8 { // HEAD and GET of both, POST, PUT of both, referrers
				t.Errorf("only %d kinds of exchange were struck", n)
			}
			if strings.Contains(name, "wait") && min(pushed.longest(), pulled.longest()) < 7*time.Second {
				t.Errorf("waited for %s and %s at most, the registry asked for 7s", pushed.longest(), pulled.longest())
			}
		})
	}
}

func TestARegistryThatStaysAwayIsGivenUp(t *testing.T) {
	for name, tc := range map[string]struct {
		fault http.HandlerFunc
		most  int // pauses
	}{
		"500 always":       {answer(500), 6},
		"cut always":       {cut, 6},
		"an hour, please":  {answer(429, "Retry-After", "3600"), 0},
		"401":              {answer(401), 0},
		"403":              {answer(403), 0},
		"405":              {answer(405), 0},
		"nobody is there":  {nil, 0},
		"no such registry": {nil, 0},
	} {
		t.Run(name, func(t *testing.T) {
			m, p := hasty(t)
			target := faulty(t, func(w http.ResponseWriter, r *http.Request) bool { tc.fault(w, r); return true }) + "/web:v1"
			switch name {
			case "nobody is there":
				target = "127.0.0.1:1/web:v1"
			case "no such registry":
				target = "registry.invalid/web:v1"
			}
			_, err := m.Pull(t.Context(), target, PullOptions{})
			if err == nil || len(p.all) > tc.most {
				t.Errorf("%v after %d pauses", err, len(p.all))
			}
			if hint := failure.HintOf(err); strings.HasPrefix(name, "40") && name != "405" && !strings.Contains(hint, "log in") {
				t.Errorf("%v: hint %q", err, hint)
			}
			nothingLeft(t, m)
		})
	}
}

// TestACutBodyIsResumed: no byte of a blob that came is asked for again where the
// registry has ranges; where it has not, or lies, it is not believed.
func TestACutBodyIsResumed(t *testing.T) {
	const piece = 30000
	for name, tc := range map[string]struct {
		ranges func(w http.ResponseWriter, from, size int) bool // answers itself
		want   error
		bytes  int64 // sent at most, for a blob of size; 0: not looked at
	}{
		"ranges":        {bytes: 1},
		"no ranges":     {ranges: func(w http.ResponseWriter, _, _ int) bool { return false }},
		"refused":       {ranges: func(w http.ResponseWriter, _, _ int) bool { w.WriteHeader(416); return true }},
		"another range": {ranges: wrongRange(func(from int) int { return from + 1 }), want: failure.Damaged},
		"a range that is no number": {ranges: func(w http.ResponseWriter, _, _ int) bool {
			w.Header().Set("Content-Range", "bytes x")
			w.WriteHeader(206)
			return true
		}, want: failure.Damaged},
	} {
		t.Run(name, func(t *testing.T) {
			a := newMover(t)
			sn := publishPages(t, a, "first", 0, 60)
			var pack store.Descriptor
			for _, l := range sn.Manifest.Layers {
				if l.MediaType == store.MediaTypePack {
					pack = l
				}
			}
			b, _ := hasty(t)
			var sent, answers atomic.Int64
			var whole bytesOf
			host := faulty(t, func(w http.ResponseWriter, r *http.Request) bool {
				if r.Method != http.MethodGet || !strings.HasSuffix(r.URL.Path, string(pack.Digest)) {
					return false
				}
				data := whole.get(t, a, pack)
				from, asked := 0, r.Header.Get("Range")
				if asked != "" {
					from = must(strconv.Atoi(strings.TrimSuffix(strings.TrimPrefix(asked, "bytes="), fmt.Sprintf("-%d", len(data)-1))))
					if tc.ranges == nil {
						w.Header().Set("Content-Range", fmt.Sprintf("bytes %d-%d/%d", from, len(data)-1, len(data)))
						w.Header().Set("Content-Length", strconv.Itoa(len(data)-from))
						w.WriteHeader(206)
					} else if tc.ranges(w, from, len(data)) {
						return true
					} else {
						from = 0
					}
				}
				if w.Header().Get("Content-Range") == "" {
					w.Header().Set("Content-Length", strconv.Itoa(len(data)))
					w.WriteHeader(200)
				}
				// Each answer is cut, after twice as much as the one before.
				n := min(len(data)-from, piece<<answers.Add(1))
				_, _ = w.Write(data[from : from+n])
				sent.Add(int64(n))
				if from+n < len(data) {
					panic(http.ErrAbortHandler)
				}
				return true
			})
			if _, err := a.Push(t.Context(), "first", host+"/web:v1", true); err != nil {
				t.Fatal(err)
			}
			got, err := b.Pull(t.Context(), host+"/web:v1", PullOptions{})
			if tc.want != nil {
				if !errors.Is(err, tc.want) {
					t.Fatalf("%v, want %v", err, tc.want)
				}
				nothingLeft(t, b)
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			same(t, b, sn, got)
			if tc.bytes > 0 && sent.Load() != pack.Size {
				t.Errorf("%d bytes were sent of a blob of %d", sent.Load(), pack.Size)
			}
		})
	}
}

func wrongRange(start func(int) int) func(http.ResponseWriter, int, int) bool {
	return func(w http.ResponseWriter, from, size int) bool {
		w.Header().Set("Content-Range", fmt.Sprintf("bytes %d-%d/%d", start(from), size-1, size))
		w.WriteHeader(206)
		return true
	}
}

// bytesOf a blob, read once.
type bytesOf struct {
	once sync.Once
	b    []byte
}

func (x *bytesOf) get(t *testing.T, m *Mover, d store.Descriptor) []byte {
	x.once.Do(func() {
		b, err := m.Store.ReadBlob(context.Background(), d.Digest)
		if err != nil {
			t.Error(err)
		}
		x.b = b
	})
	return x.b
}

// TestASilentRegistryIsLeft: it takes a request and says nothing, or not all; the
// lease is let go.
func TestASilentRegistryIsLeft(t *testing.T) {
	for name, tc := range map[string]struct {
		silent func(w http.ResponseWriter, r *http.Request)
		at     string
		push   bool
	}{
		"no answer to a pull": {func(http.ResponseWriter, *http.Request) {}, "GET manifests", false},
		"no answer to a push": {func(http.ResponseWriter, *http.Request) {}, "HEAD manifests", true},
		"half a blob": {func(w http.ResponseWriter, _ *http.Request) {
			_, _ = w.Write(make([]byte, 10))
			w.(http.Flusher).Flush()
		}, "GET blobs", false},
		"a drip": {func(w http.ResponseWriter, r *http.Request) {
			for range time.Tick(10 * time.Millisecond) {
				if _, err := w.Write([]byte{0}); err != nil || r.Context().Err() != nil {
					return
				}
				w.(http.Flusher).Flush()
			}
		}, "GET blobs", false},
		"an upload that is not read": {func(http.ResponseWriter, *http.Request) {}, "PUT blobs/uploads", true},
	} {
		t.Run(name, func(t *testing.T) {
			done := make(chan struct{})
			var silent atomic.Bool
			host := faulty(t, func(w http.ResponseWriter, r *http.Request) bool {
				if kindOf(r) != tc.at || !silent.Load() {
					return false
				}
				tc.silent(w, r)
				<-done
				return true
			})
			t.Cleanup(func() { close(done) }) // before the server is closed
			a, _ := hasty(t)
			publish(t, a, "first", nil)
			m := a
			if !tc.push {
				if _, err := a.Push(t.Context(), "first", host+"/web:v1", true); err != nil {
					t.Fatal(err)
				}
				m, _ = hasty(t)
			}
			silent.Store(true)
			m.Idle = 300 * time.Millisecond
			var err error
			if tc.push {
				_, err = m.Push(t.Context(), "first", host+"/web:v1", true)
			} else {
				_, err = m.Pull(t.Context(), host+"/web:v1", PullOptions{})
			}
			var idle *idleError
			if !errors.As(err, &idle) || !strings.Contains(failure.HintOf(err), "registryTimeout") {
				t.Errorf("%v (hint %q)", err, failure.HintOf(err))
			}
			nothingLeft(t, m)
		})
	}
}

// TestLiesOfARegistryAreDamage: what it sends is not what it says.
func TestLiesOfARegistryAreDamage(t *testing.T) {
	body := func(change func(http.Header, []byte) []byte) func(http.ResponseWriter, *httptest.ResponseRecorder) {
		return func(w http.ResponseWriter, rec *httptest.ResponseRecorder) {
			for k, v := range rec.Header() {
				w.Header()[k] = v
			}
			b := change(w.Header(), rec.Body.Bytes())
			w.WriteHeader(rec.Code)
			_, _ = w.Write(b)
		}
	}
	lies := map[string]func(http.ResponseWriter, *httptest.ResponseRecorder){
		"trailing data": body(func(h http.Header, b []byte) []byte { h.Del("Content-Length"); return append(b, "more"...) }),
		"longer": body(func(h http.Header, b []byte) []byte {
			h.Set("Content-Length", strconv.Itoa(len(b)+4))
			return append(b, "more"...)
		}),
		"shorter": body(func(h http.Header, b []byte) []byte {
			h.Set("Content-Length", strconv.Itoa(len(b)-4))
			return b[:len(b)-4]
		}),
		"other bytes": body(func(_ http.Header, b []byte) []byte { b[len(b)/2] ^= 1; return b }),
	}
	for _, at := range []string{"GET manifests", "GET blobs"} {
		for name, lie := range lies {
			t.Run(at+" "+name, func(t *testing.T) {
				a, _ := hasty(t)
				b, _ := hasty(t)
				sn := publish(t, a, "first", nil)
				lying := atomic.Bool{}
				inner := ggcr.New(quiet())
				s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
					if !lying.Load() || kindOf(r) != at {
						inner.ServeHTTP(w, r)
						return
					}
					rec := httptest.NewRecorder()
					inner.ServeHTTP(rec, r)
					lie(w, rec)
				}))
				t.Cleanup(s.Close)
				host := strings.TrimPrefix(s.URL, "http://")
				if _, err := a.Push(t.Context(), "first", host+"/web:v1", true); err != nil {
					t.Fatal(err)
				}
				lying.Store(true)
				_, err := b.Pull(t.Context(), host+"/web@"+string(sn.ManifestDigest), PullOptions{})
				if failure.Code(err) != 5 {
					t.Errorf("exit %d: %v", failure.Code(err), err)
				}
				nothingLeft(t, b)
			})
		}
	}
}

// TestListsOfARegistryAreBounded: pages of what refers to a manifest without end.
func TestListsOfARegistryAreBounded(t *testing.T) {
	a, _ := hasty(t)
	b, _ := hasty(t)
	publish(t, a, "first", nil)
	var pages atomic.Int64
	host := faulty(t, func(w http.ResponseWriter, r *http.Request) bool {
		if !strings.Contains(r.URL.Path, "/referrers/") {
			return false
		}
		w.Header().Set("Content-Type", ocispec.MediaTypeImageIndex)
		w.Header().Set("Link", fmt.Sprintf(`<%s?page=%d>; rel="next"`, r.URL.Path, pages.Add(1)))
		_, _ = io.WriteString(w, `{"schemaVersion":2,"mediaType":"`+ocispec.MediaTypeImageIndex+`","manifests":[]}`)
		return true
	})
	if _, err := a.Push(t.Context(), "first", host+"/web:v1", false); err != nil {
		t.Fatal(err)
	}
	pages.Store(0)
	_, err := b.Pull(t.Context(), host+"/web:v1", PullOptions{})
	if failure.Code(err) != 5 || pages.Load() > mostPages {
		t.Errorf("exit %d after %d pages: %v", failure.Code(err), pages.Load(), err)
	}
	nothingLeft(t, b)
}
