package main

import (
	"context"
	"embed"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
)

//go:embed files
var files embed.FS

// images of one run, all below dir.
type images struct {
	dir string
	key string // private key that host and guest accept
}

// build makes what is not there yet: the trees once, the images anew for each
// run, since they hold the binaries under test.
func build(ctx context.Context, o options) (*images, error) {
	im := &images{dir: o.dir, key: filepath.Join(o.dir, "key")}
	if err := os.MkdirAll(o.dir, 0o700); err != nil {
		return nil, err
	}
	if _, err := os.Stat(im.key); err != nil {
		if err := loud(ctx, "ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", im.key); err != nil {
			return nil, err
		}
	}
	scripts := filepath.Join(o.dir, "files")
	if err := os.RemoveAll(scripts); err != nil {
		return nil, err
	}
	if err := os.CopyFS(o.dir, files); err != nil {
		return nil, fmt.Errorf("writing the lab's files: %w", err)
	}
	cocoon, err := filepath.Abs(o.cocoon)
	if err != nil {
		return nil, err
	}
	if err := loud(ctx, "bash", filepath.Join(scripts, "trees.sh"), o.dir); err != nil {
		return nil, fmt.Errorf("making the Debian trees: %w", err)
	}
	if err := loud(ctx, "bash", filepath.Join(scripts, "images.sh"), o.dir, o.vmm, cocoon, im.key+".pub"); err != nil {
		return nil, fmt.Errorf("making the images: %w", err)
	}
	return im, nil
}

// loud runs a command whose output the reader sees.
func loud(ctx context.Context, name string, args ...string) error {
	cmd := exec.CommandContext(ctx, name, args...)
	cmd.Stdout, cmd.Stderr = os.Stderr, os.Stderr
	return cmd.Run()
}
