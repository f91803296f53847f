package registry

import (
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	ggcr "github.com/google/go-containerregistry/pkg/registry"
)

// faulty is a registry before which stands fault: it answers a request itself,
// then true, or lets it through.
func faulty(t *testing.T, fault func(http.ResponseWriter, *http.Request) bool, o ...ggcr.Option) (host string) {
	t.Helper()
	inner := ggcr.New(append(o, quiet())...)
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if !fault(w, r) {
			inner.ServeHTTP(w, r)
		}
	}))
	t.Cleanup(s.Close)
	return strings.TrimPrefix(s.URL, "http://")
}
