package main

import (
	"fmt"
	"os"
	"path/filepath"
)

// tools are cocoon and its peers, each as its manual says for this use: fastest
// compression, no encryption where it can be left out.
func (b *bench) tools(restic string) []peer {
	home := filepath.Join(b.work, "peer")
	in := func(name string) string { return filepath.Join(home, name) }
	resticEnv := []string{"RESTIC_REPOSITORY=" + in("repo"), "RESTIC_PASSWORD=x", "RESTIC_CACHE_DIR=" + filepath.Join(b.work, "restic-cache"), "RESTIC_PROGRESS_FPS=0.1"}
	return []peer{
		b.ourselves(home),
		{
			name: "zstd -1 -T2",
			save: func(state, image string) []string {
				return []string{"zstd", "-1", "-T2", "-q", image, "-o", in(state + ".zst")}
			},
			restore: func(state, target string) []string {
				return []string{"zstd", "-d", "-q", in(state + ".zst"), "-o", filepath.Join(target, "ram")}
			},
		},
		{
			name: "restic 0.18.1", env: resticEnv,
			prepare: []string{restic, "init", "-q"},
			save: func(_, image string) []string {
				return []string{restic, "backup", "-q", "--compression", "auto", image}
			},
			restore: func(_, target string) []string {
				return []string{restic, "restore", "-q", "latest", "--sparse", "--target", target}
			},
		},
		{
			name:    "borg, zstd,1",
			env:     []string{"BORG_BASE_DIR=" + in("borg-home"), "BORG_RELOCATED_REPO_ACCESS_IS_OK=yes", "BORG_UNKNOWN_UNENCRYPTED_REPO_ACCESS_IS_OK=yes"},
			prepare: []string{"borg", "init", "-e", "none", in("repo")},
			save: func(state, image string) []string {
				return []string{"borg", "create", "--files-cache", "disabled", "-C", "zstd,1", in("repo") + "::" + state, image}
			},
			restore: func(state, _ string) []string {
				return []string{"borg", "extract", "--sparse", in("repo") + "::" + state}
			},
			inTarget: true,
		},
		{
			name: "casync",
			save: func(state, image string) []string {
				return []string{"casync", "make", "--store=" + in("store.castr"), in(state + ".caibx"), image}
			},
			restore: func(state, target string) []string {
				return []string{"casync", "extract", "--store=" + in("store.castr"), in(state + ".caibx"), filepath.Join(target, "ram")}
			},
		},
	}
}

// ourselves is cocoon: the image becomes the RAM of a snapshot folder.
func (b *bench) ourselves(home string) peer {
	root := filepath.Join(home, "store")
	return peer{
		name: "cocoon",
		env:  []string{"COCOON_ROOT_DIR=" + root, "COCOON_RUN_DIR=" + root + ".run"},
		save: func(state, image string) []string {
			dir := filepath.Join(b.work, "folder-"+state)
			if err := rawFolder(dir, image); err != nil {
				return []string{"sh", "-c", fmt.Sprintf("echo %q >&2; exit 1", err)}
			}
			argv := []string{b.cocoon, "snapshot", "import", dir, "--name", state}
			if state == "second" {
				argv = append(argv, "--parent", "first")
			}
			return argv
		},
		restore: func(state, target string) []string {
			return []string{b.cocoon, "snapshot", "export", state, "-o", filepath.Join(target, "out"), "--format", "ch"}
		},
	}
}

// rawFolder makes a snapshot folder whose RAM is a raw file, once.
func rawFolder(dir, image string) error {
	ram := filepath.Join(dir, "memory-ranges")
	if _, err := os.Stat(ram); err == nil {
		return nil
	}
	fi, err := os.Stat(image)
	if err != nil {
		return err
	}
	if err := documents(dir, fi.Size()); err != nil {
		return err
	}
	return os.Link(image, ram)
}
