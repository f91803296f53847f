package network

import (
	"encoding/json"
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"strings"

	"github.com/containernetworking/cni/libcni"
	"github.com/containernetworking/cni/pkg/invoke"

	"github.com/cocoonv2/cocoon/internal/base/failure"
)

// conflist is a network as written by the operator. list.Bytes holds every
// plugin, including those in files beside it.
type conflist struct {
	path string
	list *libcni.NetworkConfigList
}

// find returns the conflist of a name; within a folder the first file in lexical
// order wins. It has checked that every plugin is installed.
func (h Host) find(name string) (*conflist, error) {
	var broken []error
	var known []string
	for _, dir := range h.confDirs() {
		files, err := libcni.ConfFiles(dir, []string{".conflist"})
		if err != nil {
			return nil, err
		}
		slices.Sort(files)
		for _, f := range files {
			list, err := libcni.NetworkConfFromFile(f)
			if err != nil {
				broken = append(broken, fmt.Errorf("%s: %w", f, err))
				continue
			}
			if list.Name == name {
				return h.complete(&conflist{f, list})
			}
			known = append(known, list.Name)
		}
	}
	if len(broken) > 0 {
		return nil, failure.Hint(failure.New(failure.Usage, "network %q: not found, and some conflists are broken: %w", name, errors.Join(broken...)),
			"mend or move away the broken file")
	}
	hint := "put a conflist into " + h.confDirs()[0]
	if len(known) > 0 {
		hint = "there are: " + strings.Join(known, ", ")
	}
	return nil, failure.Hint(failure.New(failure.NotFound, "network %q: no conflist of that name in %s", name, strings.Join(h.confDirs(), ", ")), hint)
}

func (h Host) complete(c *conflist) (*conflist, error) {
	plugins := make([]json.RawMessage, len(c.list.Plugins))
	for i, p := range c.list.Plugins {
		plugins[i] = p.Bytes
		for _, name := range []string{p.Network.Type, p.Network.IPAM.Type} {
			if name == "" {
				continue
			}
			if _, err := invoke.FindInPath(name, h.pluginDirs()); err != nil {
				return nil, failure.Hint(failure.New(failure.NotFound, "network %q (%s): plugin %q is not installed", c.list.Name, c.path, name),
					"install the CNI plugins (Debian: containernetworking-plugins) into one of "+strings.Join(h.pluginDirs(), ", "))
			}
		}
	}
	whole, err := json.Marshal(map[string]any{
		"cniVersion": c.list.CNIVersion, "name": c.list.Name, "plugins": plugins, "loadOnlyInlinedPlugins": true,
	})
	if err != nil {
		return nil, fmt.Errorf("network %q: %w", c.list.Name, err)
	}
	c.list.Bytes = whole
	c.path = filepath.Clean(c.path)
	return c, nil
}

// bridges names the bridges that the plugins of a list use on the host.
func bridges(list *libcni.NetworkConfigList) []string {
	var out []string
	for _, p := range list.Plugins {
		if p.Network.Type != "bridge" {
			continue
		}
		conf := struct {
			Bridge string `json:"bridge"`
		}{Bridge: "cni0"} // the plugin's own default
		if json.Unmarshal(p.Bytes, &conf) == nil && conf.Bridge != "" {
			out = append(out, conf.Bridge)
		}
	}
	return out
}
