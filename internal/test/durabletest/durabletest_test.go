//go:build amd64

package durabletest

import (
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/cocoonv2/cocoon/internal/base/durable"
	"github.com/cocoonv2/cocoon/internal/test/leaktest"
)

const jobIn = "DURABLETEST_JOB"

// TestMain is the traced program too.
func TestMain(m *testing.M) {
	if job, path, ok := strings.Cut(os.Getenv(jobIn), ":"); ok {
		if err := jobs[job](path); err != nil {
			os.Stderr.WriteString(err.Error() + "\n")
			syscall.Exit(1)
		}
		syscall.Exit(0) // and do no more: os.Exit would write what was covered
	}
	leaktest.Main(m)
}

var contents = durable.Document{Name: "job", Limit: 100}

var jobs = map[string]func(path string) error{
	"durable": func(path string) error { return contents.Write(path, []byte("new contents"), 0o600) },
	"exchange": func(path string) error {
		beside := filepath.Join(filepath.Dir(path), "beside", "file")
		return errors.Join(durable.Mkdir(filepath.Dir(beside), 0o700), contents.Write(beside, []byte("new contents"), 0o600),
			durable.Exchange(beside, path), durable.SyncParents(beside, path))
	},
	"link": func(path string) error { // read through, it is the contents of another file
		target := filepath.Join(filepath.Dir(path), "target")
		return errors.Join(contents.Write(target, []byte("new contents"), 0o600), os.Remove(path), os.Symlink("target", path), durable.SyncDir(filepath.Dir(path)))
	},
	"forgetful": func(path string) error { // what everybody writes first
		tmp := path + ".tmp"
		return errors.Join(os.WriteFile(tmp, []byte("new contents"), 0o600), os.Rename(tmp, path))
	},
}

// folder is on a tmpfs, where no inode number comes twice.
func folder(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	if err := unix.Mount("tmpfs", dir, "tmpfs", 0, "size=16m,mode=700"); err != nil {
		t.Skipf("no tmpfs can be mounted here: %v", err)
	}
	t.Cleanup(func() {
		if err := unix.Unmount(dir, unix.MNT_DETACH); err != nil {
			t.Error(err)
		}
	})
	if err := os.WriteFile(filepath.Join(dir, "file"), []byte("old"), 0o600); err != nil {
		t.Fatal(err)
	}
	return dir
}

// play runs a job on dir/file and gives its exit code and what it said.
func play(t *testing.T, job, dir string, tr Tracer) (int, string) {
	t.Helper()
	stderr, err := os.CreateTemp(t.TempDir(), "stderr")
	if err != nil {
		t.Fatal(err)
	}
	defer stderr.Close()
	status, err := Run(Program{Path: "/proc/self/exe", Env: []string{jobIn + "=" + job + ":" + filepath.Join(dir, "file")}, Stderr: stderr}, tr)
	if errors.Is(err, unix.EPERM) {
		t.Skipf("no process can be traced here: %v", err)
	}
	if err != nil {
		t.Fatal(err)
	}
	said, err := os.ReadFile(stderr.Name())
	if err != nil {
		t.Fatal(err)
	}
	return status.ExitStatus(), string(said)
}

// outcomes are the contents of the file after every power cut that there is: at
// each call, with each part of what was not fsynced.
func outcomes(t *testing.T, job string) (atEnd, anywhere []string) {
	t.Helper()
	dir := folder(t)
	d, err := NewDisk(dir)
	if err != nil {
		t.Fatal(err)
	}
	cut := func() (found []string) {
		for bits := range 1 << d.Pending {
			to := filepath.Join(t.TempDir(), "cut")
			if err := d.PowerCut(to, func(i int) bool { return bits&(1<<i) != 0 }); err != nil {
				t.Fatal(err)
			}
			b, err := os.ReadFile(filepath.Join(to, "file"))
			if err != nil {
				b = []byte("lost")
			}
			found = append(found, string(b))
		}
		slices.Sort(found)
		return slices.Compact(found)
	}
	code, said := play(t, job, dir, Tracer{Exit: func(c *Call) {
		if d.Apply(c) {
			anywhere = append(anywhere, cut()...)
		}
	}})
	if code != 0 {
		t.Fatalf("exit code %d: %s", code, said)
	}
	slices.Sort(anywhere)
	return cut(), slices.Compact(anywhere)
}

func TestWhatIsDurableSurvivesEveryPowerCut(t *testing.T) {
	for _, job := range []string{"durable", "exchange"} {
		atEnd, anywhere := outcomes(t, job)
		if !slices.Equal(atEnd, []string{"new contents"}) || !slices.Equal(anywhere, []string{"new contents", "old"}) {
			t.Errorf("%s: after the end %q, before it %q", job, atEnd, anywhere)
		}
	}
}

func TestALinkSurvivesWithItsFolder(t *testing.T) {
	atEnd, anywhere := outcomes(t, "link")
	if !slices.Equal(atEnd, []string{"new contents"}) || !slices.Equal(anywhere, []string{"lost", "new contents", "old"}) {
		t.Errorf("after the end %q, before it %q", atEnd, anywhere)
	}
}

func TestAMissingFsyncIsFound(t *testing.T) {
	atEnd, _ := outcomes(t, "forgetful")
	if !slices.Equal(atEnd, []string{"", "new contents", "old"}) {
		t.Errorf("after the end %q: an empty file and the old one are what is possible", atEnd)
	}
}

func TestEveryCallOfAProgramCanFail(t *testing.T) {
	var sites []string
	dir := folder(t)
	inside := func(c *Call) bool { return strings.HasPrefix(c.Path, dir) }
	play(t, "durable", dir, Tracer{Entry: func(c *Call) Verdict {
		if inside(c) {
			sites = append(sites, c.Name+" "+c.Site)
		}
		return Verdict{}
	}})
	var names []string
	for _, s := range sites {
		name, site, _ := strings.Cut(s, " ")
		names = append(names, name)
		if !strings.Contains(site, "durabletest_test.go:") || !strings.Contains(site, " < internal/base/durable/durable.go:") {
			t.Errorf("%s has site %q", name, site)
		}
	}
	if want := []string{"openat", "write", "fchmod", "fsync", "renameat", "fsync"}; !slices.Equal(names, want) {
		t.Fatalf("calls %q, want %q", names, want)
	}
	for i, name := range names {
		n := 0
		code, said := play(t, "durable", dir, Tracer{Entry: func(c *Call) Verdict {
			if !inside(c) {
				return Verdict{}
			}
			if n++; n == i+1 {
				return Verdict{Errno: unix.EIO}
			}
			return Verdict{}
		}})
		if code != 1 || !strings.Contains(said, "input/output error") {
			t.Errorf("%s number %d failed: exit code %d, %q", name, i+1, code, said)
		}
	}
}

func TestAShortWriteIsContinuedAndAKillKills(t *testing.T) {
	dir := folder(t)
	var writes []int64
	code, said := play(t, "durable", dir, Tracer{
		Entry: func(c *Call) Verdict { return Verdict{Short: c.Name == "write" && len(writes) == 0} },
		Exit: func(c *Call) {
			if c.Name == "write" {
				writes = append(writes, c.Result)
			}
		},
	})
	if code != 0 || !slices.Equal(writes, []int64{6, 6}) {
		t.Errorf("exit code %d (%s), writes of %d bytes", code, said, writes)
	}
	code, _ = play(t, "durable", dir, Tracer{Entry: func(c *Call) Verdict { return Verdict{Kill: c.Name == "renameat"} }})
	if code != -1 {
		t.Errorf("exit code %d of a killed program", code)
	}
}
