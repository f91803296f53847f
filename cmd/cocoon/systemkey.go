package main

import (
	"errors"
	"path/filepath"
	"strings"

	"github.com/spf13/cobra"

	"github.com/cocoonv2/cocoon/internal/base/failure"
	"github.com/cocoonv2/cocoon/internal/engine/house"
	"github.com/cocoonv2/cocoon/store/keyring"
)

func newSystemKey(a *app) *cobra.Command {
	c := &cobra.Command{Use: "key", Short: "Key files of encrypted snapshots", Args: cobra.ArbitraryArgs, RunE: groupHelp}
	c.AddCommand(newKeyCreate(a), newKeyShow(a))
	return c
}

func newKeyCreate(a *app) *cobra.Command {
	return &cobra.Command{
		Use: "create FILE", Short: "Create a key file and print the key's id; never overwrites", Args: needArgs(cobra.ExactArgs(1)),
		RunE: func(_ *cobra.Command, args []string) error {
			if err := a.outsideStore(args[0]); err != nil {
				return err
			}
			k, err := keyring.Create(args[0])
			if err != nil {
				return err
			}
			a.out.Line("%s", k.ID())
			a.errOut.Line("warning: keep a copy of %s away from this host: if it is lost, every snapshot encrypted with it is lost, and nobody can help", args[0])
			return nil
		},
	}
}

// outsideStore: a key stored with the data it protects protects nothing.
func (a *app) outsideStore(file string) error {
	path, err1 := house.Lies(file)
	root, err2 := house.Lies(a.set("rootDir"))
	if err := errors.Join(err1, err2); err != nil {
		return err
	}
	if strings.HasPrefix(path, root+string(filepath.Separator)) {
		return failure.Hint(failure.New(failure.Usage, "%s is inside the store that it protects", path), "keep keys elsewhere, for example in /etc/cocoon")
	}
	return nil
}

func newKeyShow(a *app) *cobra.Command {
	return &cobra.Command{
		Use: "show [FILE…]", Short: "Print the ids of key files (of the configured ones without arguments); they reveal nothing",
		RunE: func(_ *cobra.Command, args []string) error {
			if len(args) == 0 {
				args = keyring.NewRing(a.set("keyFile")).Files()
			}
			if len(args) == 0 {
				return failure.New(failure.NotFound, "no key file is configured")
			}
			return each(args, func(path string) error {
				k, err := keyring.Load(path)
				if err != nil {
					return err
				}
				a.out.Line("%s  %s", k.ID(), path)
				return nil
			})
		},
	}
}
