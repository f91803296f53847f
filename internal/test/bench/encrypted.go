package main

import (
	"fmt"
	"os"
	"path/filepath"

	"github.com/cocoonv2/cocoon/internal/test/ramgen"
	"github.com/cocoonv2/cocoon/store/keyring"
)

// kind is a store without or with a key, and what its commands took.
type kind struct {
	name          string
	keyFile       string
	one, two, out series
	stored        int64
}

// encrypted measures the same commands without and with a key file, in turns.
func (b *bench) encrypted() error {
	first := b.ram(b.bytes, 7)
	for name, im := range map[string]*ramgen.Image{"first": first, "second": first.Mutate(0.07, 8)} {
		if err := folder(filepath.Join(b.work, name), im); err != nil {
			return err
		}
	}
	key := filepath.Join(b.work, "key")
	if _, err := keyring.Create(key); err != nil {
		return err
	}
	plain, sealed := &kind{name: "plain"}, &kind{name: "sealed", keyFile: key}
	for i := range b.runs {
		order := []*kind{plain, sealed}
		if i%2 == 1 {
			order[0], order[1] = sealed, plain
		}
		for _, k := range order {
			if err := b.roundTrip(k); err != nil {
				return err
			}
		}
	}
	for _, f := range []struct {
		what string
		of   func(*kind) series
	}{
		{"first capture", func(k *kind) series { return k.one }},
		{"second capture", func(k *kind) series { return k.two }},
		{"export of RAM", func(k *kind) series { return k.out }},
	} {
		p, s := f.of(plain), f.of(sealed)
		row("encrypted: "+f.what+", time", ms(s.wall()), "plain "+ms(p.wall()), ratio(s.wall().Seconds(), p.wall().Seconds()), "")
		row("encrypted: "+f.what+", processor time", ms(s.busy()), "plain "+ms(p.busy()), ratio(s.busy().Seconds(), p.busy().Seconds()), "≤ 1.1")
	}
	row("encrypted: first capture, stored", mib(sealed.stored), "plain "+mib(plain.stored), fmt.Sprintf("%.4f×", float64(sealed.stored)/float64(plain.stored)), "≤ 1.01")
	return nil
}

// roundTrip captures twice and exports, in a store of its own.
func (b *bench) roundTrip(k *kind) error {
	root := filepath.Join(b.work, k.name)
	env := []string{"COCOON_ROOT_DIR=" + root, "COCOON_RUN_DIR=" + root + ".run", "COCOON_KEY_FILE=" + k.keyFile}
	if err := k.one.add(timed(env, b.cocoon, "snapshot", "import", filepath.Join(b.work, "first"), "--name", "first")); err != nil {
		return err
	}
	stats, err := b.inspect(env, "first")
	if err != nil {
		return err
	}
	k.stored = stats.Size.Stored
	if err := k.two.add(timed(env, b.cocoon, "snapshot", "import", filepath.Join(b.work, "second"), "--name", "second", "--parent", "first")); err != nil {
		return err
	}
	if err := k.out.add(b.export(env)); err != nil {
		return err
	}
	return os.RemoveAll(root)
}
