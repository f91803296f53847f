package registry

import (
	"context"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/cocoonv2/cocoon/store"
)

// distribution starts the registry that most hosts run, as Debian packages it.
func distribution(t *testing.T) (host string) {
	t.Helper()
	binary, err := exec.LookPath("docker-registry")
	if err != nil {
		t.Skip("docker-registry is not installed: apt-get install docker-registry")
	}
	l := must(net.Listen("tcp", "127.0.0.1:0"))
	host = l.Addr().String()
	l.Close()
	dir := t.TempDir()
	config := filepath.Join(dir, "config.yml")
	text := fmt.Sprintf("version: 0.1\nlog: {level: error}\nstorage: {filesystem: {rootdirectory: %s}}\nhttp: {addr: %q}\n", filepath.Join(dir, "data"), host)
	if err := os.WriteFile(config, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(binary, "serve", config)
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		cmd.Process.Kill()
		_ = cmd.Wait()
	})
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	for {
		c, err := (&net.Dialer{}).DialContext(ctx, "tcp", host)
		if err == nil {
			c.Close()
			return host
		}
		if sleep(ctx, 10*time.Millisecond) != nil {
			t.Fatalf("docker-registry does not listen: %v", err)
		}
	}
}

// cutting is a body that ends early.
type cutting struct {
	io.ReadCloser
	left int
}

func (c *cutting) Read(p []byte) (int, error) {
	if c.left == 0 {
		return 0, io.ErrUnexpectedEOF
	}
	n, err := c.ReadCloser.Read(p[:min(len(p), c.left)])
	c.left -= n
	return n, err
}

// TestADistributionRegistryBehindAProxyThatCuts: each whole answer with a pack is
// cut, and each first upload; ranges are what goes on.
func TestADistributionRegistryBehindAProxyThatCuts(t *testing.T) {
	upstream := distribution(t)
	var cuts, ranges, uploads atomic.Int64
	proxy := &httputil.ReverseProxy{
		Rewrite: func(r *httputil.ProxyRequest) { r.Out.URL.Scheme, r.Out.URL.Host = "http", upstream },
		ModifyResponse: func(resp *http.Response) error {
			r := resp.Request
			switch {
			case kindOf(r) == "GET blobs" && resp.StatusCode == http.StatusPartialContent:
				ranges.Add(1)
			case kindOf(r) == "GET blobs" && resp.ContentLength > 100000:
				cuts.Add(1)
				resp.Body = &cutting{resp.Body, 50000}
			}
			return nil
		},
		ErrorLog: log.New(io.Discard, "", 0),
	}
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if kindOf(r) == "PUT blobs/uploads" && r.ContentLength > 100000 && uploads.Add(1) == 1 {
			cut(w, r)
			return
		}
		proxy.ServeHTTP(w, r)
	}))
	t.Cleanup(s.Close)
	host := strings.TrimPrefix(s.URL, "http://")
	a, _ := hasty(t)
	b, _ := hasty(t)
	sn := publishPages(t, a, "first", 0, 200)
	if _, err := a.Push(t.Context(), "first", host+"/vm/web:v1", true); err != nil {
		t.Fatal(err)
	}
	got, err := b.Pull(t.Context(), host+"/vm/web:v1", PullOptions{Meta: store.Meta{Name: "copy"}})
	if err != nil {
		t.Fatal(err)
	}
	same(t, b, sn, got)
	if again, err := a.Push(t.Context(), "first", host+"/vm/web:v1", true); err != nil || again.SentBytes != 0 {
		t.Errorf("push of what is there: %+v, %v", again, err)
	}
	if cuts.Load() == 0 || ranges.Load() != cuts.Load() || uploads.Load() < 2 {
		t.Errorf("%d bodies were cut, %d ranges asked for, %d uploads of a pack tried", cuts.Load(), ranges.Load(), uploads.Load())
	}
}
