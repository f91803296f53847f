package main

import (
	"os"
	"path/filepath"
	"slices"
	"syscall"

	"github.com/cocoonv2/cocoon/internal/base/guest"
	"github.com/cocoonv2/cocoon/store/keyring"
)

// storeKind is a store in which the file system fails or forgets, and the verbs
// that change it meanwhile.
type storeKind struct {
	name  string
	make  []func(*host)
	verbs []verb
	share int // a plain `go test` tries every share-th verb
}

// storeKinds: what has nothing to do with snapshots is the same in both.
var storeKinds = []storeKind{
	{"plain", []func(*host){onTmpfs}, slices.Concat(changesOfSnapshots, changesOfVMs), 3},
	{"encrypted", []func(*host){onTmpfs, encrypted}, append(slices.Clone(changesOfSnapshots), firstEncrypted), 14},
}

// changesOfSnapshots are the verbs of the pairs that write.
var changesOfSnapshots = slices.DeleteFunc(slices.Clone(verbs), func(v verb) bool { return v.name == "verify" })

var changesOfVMs = []verb{
	{
		name: "vm create",
		before: func(p *pairs, r string) { // a kernel that is not in the store yet
			p.write("guest.elf", append(guest.ELF(), r...))
		},
		args: func(r string) []string {
			return []string{"vm", "create", "v-" + r, "--kernel", "guest.elf", "--disk", "disk.raw", "--memory", "64M"}
		},
	},
	{
		name: "vm start",
		before: func(p *pairs, r string) {
			p.must("vm", "create", "v-"+r, "--kernel", "guest.elf", "--disk", "disk.raw", "--memory", "64M")
		},
		args: func(r string) []string { return []string{"vm", "start", "v-" + r} },
	},
	{
		name: "vm rm",
		before: func(p *pairs, r string) {
			p.must("vm", "create", "v-"+r, "--kernel", "guest.elf", "--disk", "disk.raw", "--memory", "64M")
		},
		args: func(r string) []string { return []string{"vm", "rm", "-f", "v-" + r} },
	},
	{
		name:   "image import",
		before: func(p *pairs, r string) { p.write("image.elf", append(guest.ELF(), r...)) },
		args:   func(r string) []string { return []string{"image", "import", "image.elf", "--name", "i-" + r} },
	},
	tagVerb,
	{name: "rename", args: func(r string) []string { return []string{"snapshot", "rename", "target", "t-" + r} }},
}

// tagVerb changes meta.json and nothing else.
var tagVerb = verb{name: "tag", args: func(r string) []string { return []string{"snapshot", "tag", "target", "--add", "by=" + r} }}

// firstEncrypted is a capture that makes the store one of encrypted snapshots.
var firstEncrypted = verb{
	name: "first encrypted",
	before: func(p *pairs, _ string) {
		if err := os.WriteFile(filepath.Join(p.root, "format"), []byte(`{"format":"cocoon-store","version":1}`), 0o600); err != nil {
			p.t.Fatal(err)
		}
	},
	args: func(r string) []string { return []string{"snapshot", "create", "web", "first-" + r} },
	snap: func(r string) string { return "first-" + r },
}

// onTmpfs puts the store where no inode number comes twice.
func onTmpfs(h *host) {
	h.t.Helper()
	if err := os.Mkdir(h.root, 0o700); err != nil {
		h.t.Fatal(err)
	}
	if err := syscall.Mount("tmpfs", h.root, "tmpfs", 0, "size=1g,mode=700"); err != nil {
		h.t.Skipf("cannot mount a tmpfs here: %v", err)
	}
	h.t.Cleanup(func() {
		killLeftovers(h.run)
		if err := syscall.Unmount(h.root, syscall.MNT_DETACH); err != nil {
			h.t.Error(err)
		}
	})
}

// encrypted gives every command of the host a key.
func encrypted(h *host) {
	h.t.Helper()
	h.env = append(h.env, "COCOON_KEY_FILE="+h.newKey())
}

// newKey makes the key of the host and gives its file.
func (h *host) newKey() string {
	h.t.Helper()
	path := filepath.Join(h.t.TempDir(), "key")
	key, err := keyring.Create(path)
	if err != nil {
		h.t.Fatal(err)
	}
	h.keys = keyring.FromKeys(key)
	return path
}
