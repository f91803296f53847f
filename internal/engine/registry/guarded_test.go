package registry

import (
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/cocoonv2/cocoon/internal/base/failure"
)

// answerer answers every request.
type answerer func(*http.Request) *http.Response

func (a answerer) RoundTrip(r *http.Request) (*http.Response, error) { return a(r), nil }

// TestAPasswordGoesWhereItIsMeantToGo: to the registry, to its host, and elsewhere
// by https only.
func TestAPasswordGoesWhereItIsMeantToGo(t *testing.T) {
	for _, tc := range []struct {
		registry, to string
		goes         bool
	}{
		{"https://r.example", "https://r.example/v2/", true},
		{"https://r.example", "https://token.example/t", true},
		{"https://r.example", "http://r.example/t", false},
		{"https://r.example", "http://token.example/t", false},
		{"http://r.example:5000", "http://r.example:5000/v2/", true},
		{"http://r.example:5000", "http://R.example:5001/t", true},
		{"http://r.example:5000", "http://token.example:5001/t", false},
		{"http://r.example:5000", "https://token.example/t", true},
	} {
		for _, kind := range []string{"basic", "form", "none"} {
			came := false
			g := guarded{answerer(func(*http.Request) *http.Response {
				came = true
				return &http.Response{StatusCode: 200, Body: http.NoBody}
			}), must(url.Parse(tc.registry))}
			req := must(http.NewRequest(http.MethodPost, tc.to, nil))
			switch kind {
			case "basic":
				req.SetBasicAuth("alice", "sekret")
			case "form":
				req.Header.Set("Content-Type", "application/x-www-form-urlencoded")
			}
			resp, err := g.RoundTrip(req)
			if resp != nil {
				resp.Body.Close()
			}
			var unsafe *unsafeError
			if goes := tc.goes || kind == "none"; came != goes || errors.As(err, &unsafe) == goes {
				t.Errorf("%s from %s to %s: came %v, %v", kind, tc.registry, tc.to, came, err)
			}
		}
	}
}

// secure is an https registry that is reached as example.com, which wants a token
// from realm; passwords are what came anywhere in the clear.
func secure(t *testing.T, m *Mover, realm string) (passwords func() []string) {
	t.Helper()
	dir := t.TempDir()
	auth := base64.StdEncoding.EncodeToString([]byte("alice:sekret"))
	if err := os.WriteFile(filepath.Join(dir, "config.json"), fmt.Appendf(nil, `{"auths":{"example.com":{"auth":%q}}}`, auth), 0o600); err != nil {
		t.Fatal(err)
	}
	t.Setenv("DOCKER_CONFIG", dir)
	var mu sync.Mutex
	var seen []string
	s := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Www-Authenticate", `Bearer realm="`+realm+`",service="x"`)
		w.WriteHeader(http.StatusUnauthorized)
	}))
	t.Cleanup(s.Close)
	clear := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		mu.Lock()
		defer mu.Unlock()
		seen = append(seen, r.Header.Get("Authorization"))
	}))
	t.Cleanup(clear.Close)
	base := s.Client().Transport.(*http.Transport).Clone()
	base.DialContext = func(ctx context.Context, network, addr string) (net.Conn, error) {
		to := s.Listener.Addr().String()
		if strings.HasSuffix(addr, ":80") {
			to = clear.Listener.Addr().String()
		}
		return (&net.Dialer{}).DialContext(ctx, network, to)
	}
	t.Cleanup(base.CloseIdleConnections)
	m.base = base
	return func() []string {
		mu.Lock()
		defer mu.Unlock()
		return seen
	}
}

func TestAnUnencryptedTokenServiceIsRefused(t *testing.T) {
	for _, realm := range []string{"http://example.com/token", "http://token.example/token"} {
		m, _ := hasty(t)
		passwords := secure(t, m, realm)
		_, err := m.Pull(t.Context(), "example.com/web:v1", PullOptions{})
		if !errors.Is(err, failure.Incompatible) || !strings.Contains(err.Error(), realm) || failure.HintOf(err) == "" {
			t.Errorf("%s: %v (hint %q)", realm, err, failure.HintOf(err))
		}
		if got := passwords(); len(got) > 0 {
			t.Errorf("%s was given %q", realm, got)
		}
	}
}
