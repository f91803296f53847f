package filelock

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/cocoonv2/cocoon/internal/base/failure"
)

func TestSharedAdmitsReadersAndKeepsWritersOut(t *testing.T) {
	path := filepath.Join(t.TempDir(), "lock")
	a := must(t)(Shared(t.Context(), path))
	b := must(t)(Shared(t.Context(), path))
	if _, err := TryExclusive(path); !errors.Is(err, ErrLocked) {
		t.Fatalf("writer beside readers: %v, want ErrLocked", err)
	}
	for _, l := range []*Lock{a, b, a} { // the third is a repeated Unlock
		if err := l.Unlock(); err != nil {
			t.Fatal(err)
		}
	}
	w := must(t)(TryExclusive(path))
	defer w.Unlock()
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Millisecond)
	defer cancel()
	if _, err := Shared(ctx, path); !errors.Is(err, failure.Busy) {
		t.Fatalf("reader beside writer: %v, want Busy", err)
	}
}

func TestThoseWhoAskDoNotTakeEachOtherForTheHolder(t *testing.T) {
	path := filepath.Join(t.TempDir(), "lock")
	if held, err := Held(path); held || err != nil {
		t.Fatalf("no file: held %v, %v", held, err)
	}
	w := must(t)(Exclusive(t.Context(), path))
	if held, err := Held(path); !held || err != nil {
		t.Fatalf("locked: held %v, %v", held, err)
	}
	if err := w.Unlock(); err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			for range 200 {
				if held, err := Held(path); held || err != nil {
					t.Errorf("free, but held is %v, %v", held, err)
					return
				}
			}
		})
	}
	wg.Wait()
	if _, err := os.Stat(path); err != nil {
		t.Error(err)
	}
}

func TestWaitingObeysTheContextAndNamesTheHolder(t *testing.T) {
	path := filepath.Join(t.TempDir(), "lock")
	w := must(t)(Exclusive(t.Context(), path))
	defer w.Unlock()
	if err := w.Note("a longer verb"); err != nil {
		t.Fatal(err)
	}
	if err := w.Note("gc"); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Millisecond)
	defer cancel()
	_, err := Exclusive(ctx, path)
	if !errors.Is(err, failure.Busy) || !strings.Contains(err.Error(), "held by gc (pid ") {
		t.Errorf("deadline: %v, want Busy that names gc", err)
	}
	ctx, cancel = context.WithCancel(t.Context())
	cancel()
	if _, err := Exclusive(ctx, path); !errors.Is(err, context.Canceled) || errors.Is(err, failure.Busy) {
		t.Errorf("cancelled: %v, want context.Canceled and not Busy", err)
	}
}

func TestReadNoteOfNothing(t *testing.T) {
	dir := t.TempDir()
	link := filepath.Join(dir, "link")
	if err := os.Symlink("/etc/hostname", link); err != nil {
		t.Fatal(err)
	}
	for _, path := range []string{filepath.Join(dir, "none"), link, dir} {
		if got := ReadNote(path); got != "" {
			t.Errorf("ReadNote(%s) = %q", path, got)
		}
	}
}

func TestWriterIsNotStarvedByReaders(t *testing.T) {
	dir := t.TempDir()
	p := Pair{Gate: filepath.Join(dir, "gate"), Store: filepath.Join(dir, "store")}
	ctx, cancel := context.WithCancel(t.Context())
	var wg sync.WaitGroup
	var reads atomic.Int64
	for range 4 {
		wg.Go(func() {
			for ctx.Err() == nil {
				l, err := p.Shared(ctx)
				if err != nil {
					return
				}
				reads.Add(1)
				time.Sleep(5 * time.Millisecond) // the reader's work
				l.Unlock()
			}
		})
	}
	for range 3 {
		wait, stop := context.WithTimeout(t.Context(), 5*time.Second)
		w, err := p.Exclusive(wait)
		stop()
		if err != nil {
			t.Fatalf("writer starved: %v", err)
		}
		before := reads.Load()
		time.Sleep(2 * time.Millisecond)
		if reads.Load() != before {
			t.Error("a reader got in beside the writer")
		}
		w.Unlock()
	}
	cancel()
	wg.Wait()
}

// The child of the next test takes the lock it was given and waits to die.
func TestChildHolds(t *testing.T) {
	path := os.Getenv("FILELOCK_TEST_PATH")
	if path == "" {
		t.Skip("only runs as the child of TestKernelFreesTheLockOfAKilledProcess")
	}
	if _, err := Exclusive(t.Context(), path); err != nil {
		t.Fatal(err)
	}
	os.Stdout.WriteString("held\n")
	select {}
}

func TestKernelFreesTheLockOfAKilledProcess(t *testing.T) {
	path := filepath.Join(t.TempDir(), "lock")
	cmd := exec.Command(os.Args[0], "-test.run=^TestChildHolds$")
	cmd.Env = append(os.Environ(), "FILELOCK_TEST_PATH="+path)
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	if line, err := bufio.NewReader(out).ReadString('\n'); line != "held\n" {
		t.Fatalf("child said %q, %v", line, err)
	}
	if _, err := TryExclusive(path); !errors.Is(err, ErrLocked) {
		t.Errorf("beside the living child: %v, want ErrLocked", err)
	}
	cmd.Process.Kill()
	cmd.Wait()
	l := must(t)(TryExclusive(path))
	l.Unlock()
}

func TestDetachLeavesTheLockToTheHeir(t *testing.T) {
	path := filepath.Join(t.TempDir(), "lock")
	l := must(t)(Exclusive(t.Context(), path))
	child := exec.Command("cat")
	child.ExtraFiles = []*os.File{l.File()}
	in, err := child.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := child.Start(); err != nil {
		t.Fatal(err)
	}
	if err := l.Detach(); err != nil {
		t.Fatal(err)
	}
	if _, err := TryExclusive(path); !errors.Is(err, ErrLocked) {
		t.Errorf("while the heir lives: %v, want ErrLocked", err)
	}
	in.Close()
	child.Wait()
	must(t)(TryExclusive(path)).Unlock()
}

func must(t *testing.T) func(*Lock, error) *Lock {
	return func(l *Lock, err error) *Lock {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		return l
	}
}

func TestWhoWaitsForALockOfInstantsGivesUpAndAllAreTold(t *testing.T) {
	dir := t.TempDir()
	pair := Pair{Gate: filepath.Join(dir, "gate"), Store: filepath.Join(dir, "store")}
	told := make(chan string, 8)
	ctx := WithWaits(t.Context(), Waits{
		Tell:  func(w Waiting) { told <- w.String() },
		Bound: func() time.Duration { return 50 * time.Millisecond },
	})
	for held, takes := range map[string]map[string]func(context.Context) (*Lock, error){
		pair.Gate:  {"shared": pair.Shared, "exclusive": pair.Exclusive},
		pair.Store: {"shared": pair.Shared, "exclusive": pair.Exclusive},
		filepath.Join(dir, "brief"): {"exclusive": func(ctx context.Context) (*Lock, error) {
			return Brief(ctx, filepath.Join(dir, "brief"))
		}},
	} {
		for how, take := range takes {
			w := must(t)(Exclusive(t.Context(), held))
			_, err := take(ctx)
			name := filepath.Base(held)
			me := fmt.Sprintf("(pid %d, since ", os.Getpid())
			if !errors.Is(err, failure.Busy) || !strings.Contains(err.Error(), "lock "+held+": held by ") || !strings.Contains(err.Error(), me) || !strings.Contains(failure.HintOf(err), fmt.Sprint("kill ", os.Getpid())) {
				t.Errorf("%s, %s: %v, hint %q", name, how, err, failure.HintOf(err))
			}
			if s := <-told; !strings.HasPrefix(s, "waiting for the lock "+name+", held by ") || !strings.Contains(s, me) {
				t.Errorf("%s, %s: told %q", name, how, s)
			}
			if len(told) > 0 {
				t.Errorf("%s, %s: told twice: %q", name, how, <-told)
			}
			if err := w.Unlock(); err != nil {
				t.Fatal(err)
			}
			l := must(t)(take(ctx))
			if err := l.Unlock(); err != nil {
				t.Fatal(err)
			}
		}
	}
}

func TestALineOfLocksIsReadOrNot(t *testing.T) {
	for line, want := range map[string][2]uint64{
		"1: FLOCK  ADVISORY  WRITE 4711 fd:00:1234 0 EOF":    {4711, 1234},
		"2: FLOCK  ADVISORY  READ  12 00:2a:99 0 EOF":        {12, 99},
		"3: -> FLOCK  ADVISORY  WRITE 4711 fd:00:1234 0 EOF": {},
		"4: OFDLCK ADVISORY  WRITE -1 fd:00:1234 0 EOF":      {},
		"5: FLOCK  ADVISORY  WRITE -1 fd:00:1234 0 EOF":      {},
		"6: FLOCK ADVISORY WRITE x fd:00:1234 0 EOF":         {},
		"7: FLOCK ADVISORY WRITE 1 1234 0 EOF":               {},
		"8: FLOCK":                                           {}, "": {},
	} {
		pid, inode, ok := flockOf(line)
		if ok != (want[0] != 0) || ok && (uint64(pid) != want[0] || inode != want[1]) {
			t.Errorf("%q: %d, %d, %v", line, pid, inode, ok)
		}
	}
}
