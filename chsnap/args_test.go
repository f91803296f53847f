package chsnap

import (
	"errors"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/cocoonv2/cocoon/internal/base/failure"
)

func TestArgsAreKeptApart(t *testing.T) {
	var a, more Args
	a.Options("--api-socket", PathOption("path", "/run/a=b/api.sock"))
	more.Options("--cpus", NumberOption("boot", 2), OperatorOption("nested=off"))
	more.Options("--disk", PathOption("path", "/x/disk-0.raw"), WordOption("id", "_disk0"), WordOption("serial", ""))
	more.Options("--disk", PathOption("path", "/x/disk-1.raw"), WordOption("readonly", "on"))
	more.Fixed("--console", "off")
	more.Options("--net", DeviceOption("tap", "vm+1@x"), WordOption("mac", "02:00:00:00:00:01"))
	more.Path("--kernel", "/x/blob")
	more.Text("--cmdline", "root=/dev/vda a,b=\"c d\"\nquiet")
	more.Operator("--disk", "path=/mine")
	a.Append(more)
	want := []string{
		"--api-socket", "path=/run/a=b/api.sock", "--cpus", "boot=2,nested=off", "--disk", "path=/x/disk-0.raw,id=_disk0", "path=/x/disk-1.raw,readonly=on",
		"--console", "off", "--net", "tap=vm+1@x,mac=02:00:00:00:00:01", "--kernel", "/x/blob", "--cmdline", "root=/dev/vda a,b=\"c d\" quiet",
		"--disk", "path=/mine",
	}
	got, err := a.List()
	if diff := cmp.Diff(want, got); diff != "" || err != nil {
		t.Errorf("%v, -want +got:\n%s", err, diff)
	}
}

func TestAValueThatWouldBeAnotherArgumentIsRefused(t *testing.T) {
	for name, tc := range map[string]struct {
		add  func(*Args)
		want error
	}{
		"serial with an option":    {func(a *Args) { a.Options("--disk", WordOption("serial", "x,path=/etc/shadow")) }, failure.Damaged},
		"id with an equals sign":   {func(a *Args) { a.Options("--disk", WordOption("id", "a=b")) }, failure.Damaged},
		"word with a quote":        {func(a *Args) { a.Options("--disk", WordOption("serial", `x"`)) }, failure.Damaged},
		"word with a bracket":      {func(a *Args) { a.Options("--disk", WordOption("serial", "x[")) }, failure.Damaged},
		"word that is long":        {func(a *Args) { a.Options("--disk", WordOption("serial", strings.Repeat("x", 65))) }, failure.Damaged},
		"MAC with a socket":        {func(a *Args) { a.Options("--net", WordOption("mac", "02:00:00:00:00:66,vhost_user=on,socket=x")) }, failure.Damaged},
		"TAP with a descriptor":    {func(a *Args) { a.Options("--net", DeviceOption("tap", "t,fd=3")) }, failure.Damaged},
		"number below zero":        {func(a *Args) { a.Options("--cpus", NumberOption("boot", -1)) }, failure.Damaged},
		"path with a comma":        {func(a *Args) { a.Options("--disk", PathOption("path", "/a,readonly=off/b")) }, failure.Usage},
		"path that is a flag":      {func(a *Args) { a.Path("--kernel", "--disk") }, failure.Usage},
		"path with a break":        {func(a *Args) { a.Path("--kernel", "/a\nb") }, failure.Usage},
		"no path":                  {func(a *Args) { a.Path("--kernel", "") }, failure.Usage},
		"command line of a flag":   {func(a *Args) { a.Text("--cmdline", "--disk=path=/etc/shadow") }, failure.Damaged},
		"command line with a zero": {func(a *Args) { a.Text("--cmdline", "a\x00b") }, failure.Damaged},
	} {
		var a, whole Args
		tc.add(&a)
		a.Fixed("--console", "off") // what follows does not hide it
		whole.Append(a)
		if got, err := whole.List(); !errors.Is(err, tc.want) || got != nil {
			t.Errorf("%s: %q, %v", name, got, err)
		}
	}
}

// commas parts an argument as the VMM's parser does: brackets and quotes keep
// what is in them together.
func commas(s string) (parts []string) {
	open, quoted, from := 0, false, 0
	for i, c := range s {
		switch {
		case c == '"':
			quoted = !quoted
		case quoted:
		case c == '[':
			open++
		case c == ']':
			open--
		case c == ',' && open == 0:
			parts, from = append(parts, s[from:i]), i+1
		}
	}
	return append(parts, s[from:])
}

// FuzzArgs: what the VMM reads of an argument is the options that it was made of,
// or there is no argument.
func FuzzArgs(f *testing.F) {
	f.Add("/x/disk-0.raw", "_disk0", "cow0", "tap0", "console=ttyS0")
	f.Add("/a,b", "x,path=/y", `"`, "t[", "-x")
	f.Fuzz(func(t *testing.T, path, id, serial, tap, text string) {
		var a Args
		a.Options("--disk", PathOption("path", path), WordOption("id", id), WordOption("serial", serial), DeviceOption("tap", tap))
		a.Text("--cmdline", text)
		got, err := a.List()
		if err != nil {
			return
		}
		want := []string{"path=" + path}
		for _, o := range [][2]string{{"id", id}, {"serial", serial}, {"tap", tap}} {
			if o[1] != "" {
				want = append(want, o[0]+"="+o[1])
			}
		}
		if len(got) != 4 || strings.HasPrefix(got[1], "-") || strings.HasPrefix(got[3], "-") || strings.ContainsAny(got[1]+got[3], "\n\x00") {
			t.Fatalf("%q", got)
		}
		if diff := cmp.Diff(want, commas(got[1])); diff != "" {
			t.Errorf("-want +got:\n%s", diff)
		}
	})
}
