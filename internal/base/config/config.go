// Package config finds the value of each global setting and remembers its origin:
// flag, environment, file or default, in this order of precedence.
//
// The file is YAML; an unknown key is an error, since a misspelt limit that is
// silently ignored is worse than none.
package config

import (
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"reflect"
	"strconv"
	"strings"

	"sigs.k8s.io/yaml"

	"github.com/cocoonv2/cocoon/internal/base/failure"
)

// DefaultFile is read when it exists and no other file is named.
const DefaultFile = "/etc/cocoon/config.yaml"

// fileLimit is the maximum size of a configuration file, bytes.
const fileLimit = 1 << 20

// Value is one setting and its origin. For a list setting, List holds the
// elements, none of them blank; use these, since an element may itself contain
// the separator of Value.
type Value struct {
	Key    string   `json:"key"`
	Value  string   `json:"value"`
	Origin string   `json:"origin"` // flag, environment COCOON_…, file PATH, default
	List   []string `json:"list,omitempty"`
}

// Setting describes one key: where it may come from and its default.
type Setting struct {
	Key     string // as in the file: rootDir
	Env     string // COCOON_ROOT_DIR
	Default string
}

// Settings of the program, in the order in which `config show` prints them.
func Settings() []Setting {
	return append([]Setting{
		{"rootDir", "COCOON_ROOT_DIR", "/var/lib/cocoon"},
		{"runDir", "COCOON_RUN_DIR", "/run/cocoon"},
		{"logLevel", "COCOON_LOG_LEVEL", "info"},
		{"logFormat", "COCOON_LOG_FORMAT", "text"},
		{"hypervisor", "COCOON_HYPERVISOR", "cloud-hypervisor"},
		{"cpuArgs", "COCOON_CPU_ARGS", ""},
		{"vmmTimeout", "COCOON_VMM_TIMEOUT", "30s"},
		{"vmStopTimeout", "COCOON_VM_STOP_TIMEOUT", "90s"},
		{"vmLandlock", "COCOON_VM_LANDLOCK", "auto"},
		{"vmScope", "COCOON_VM_SCOPE", "auto"},
		{"vmMemoryOverhead", "COCOON_VM_MEMORY_OVERHEAD", "512M"},
		{"vmCPUWeight", "COCOON_VM_CPU_WEIGHT", "100"},
		{"serialLogMax", "COCOON_SERIAL_LOG_MAX", "1M"},
		{"vmmOOMScoreAdj", "COCOON_VMM_OOM_SCORE_ADJ", "0"},
		{"keyFile", "COCOON_KEY_FILE", ""},
		{"maxStoreSize", "COCOON_MAX_STORE_SIZE", ""},
		{"cacheMaxBytes", "COCOON_CACHE_MAX_BYTES", "16G"},
		{"cacheAhead", "COCOON_CACHE_AHEAD", "on"},
		{"repackThreshold", "COCOON_REPACK_THRESHOLD", "50%"},
		{"gcGrace", "COCOON_GC_GRACE", "7d"},
		{"registryTimeout", "COCOON_REGISTRY_TIMEOUT", "60s"},
		{"cniConfDir", "COCOON_CNI_CONF_DIR", "/etc/cni/net.d"},
		{"cniBinDir", "COCOON_CNI_BIN_DIR", "/opt/cni/bin:/usr/lib/cni:/usr/libexec/cni"},
	}, pruneSettings()...)
}

type file struct {
	RootDir    string `json:"rootDir"`
	RunDir     string `json:"runDir"`
	LogLevel   string `json:"logLevel"`
	LogFormat  string `json:"logFormat"`
	Hypervisor string `json:"hypervisor"`
	CPUArgs    string `json:"cpuArgs"`
	VMMTimeout string `json:"vmmTimeout"`
	KeyFile    string `json:"keyFile"`

	MaxStoreSize  string `json:"maxStoreSize"`
	CacheMaxBytes string `json:"cacheMaxBytes"`
	CacheAhead    string `json:"cacheAhead"`
	CNIConfDir    string `json:"cniConfDir"`
	CNIBinDir     string `json:"cniBinDir"`

	VMStopTimeout    string `json:"vmStopTimeout"`
	VMLandlock       string `json:"vmLandlock"`
	VMScope          string `json:"vmScope"`
	VMMemoryOverhead string `json:"vmMemoryOverhead"`
	VMCPUWeight      string `json:"vmCPUWeight"`
	SerialLogMax     string `json:"serialLogMax"`
	VMMOOMScoreAdj   string `json:"vmmOOMScoreAdj"`

	RepackThreshold string `json:"repackThreshold"`
	GCGrace         string `json:"gcGrace"`
	RegistryTimeout string `json:"registryTimeout"`

	Prune pruneSection `json:"prune"`
}

// values are what a section of the file sets, by key: fields that are empty set
// nothing. A list is joined by commas, for display.
func values(section string, v reflect.Value) map[string]Value {
	out := map[string]Value{}
	for i := range v.NumField() {
		key := section + v.Type().Field(i).Tag.Get("json")
		switch x := v.Field(i).Interface().(type) {
		case string:
			out[key] = Value{Value: x}
		case *int:
			if x != nil {
				out[key] = Value{Value: strconv.Itoa(*x)}
			}
		case []string:
			out[key] = Value{Value: strings.Join(x, ","), List: x}
		default:
			maps.Copy(out, values(key+".", v.Field(i)))
		}
	}
	return out
}

// Load resolves every setting. flags holds only those given by the user; path is
// the requested file, "" for [DefaultFile] if it exists.
func Load(flags map[string]string, env func(string) (string, bool), path string) (map[string]Value, error) {
	f, from, err := readFile(path)
	if err != nil {
		return nil, err
	}
	set := values("", reflect.ValueOf(f))
	out := map[string]Value{}
	for _, s := range Settings() {
		v := Value{Key: s.Key, Value: s.Default, Origin: "default"}
		if x := set[s.Key]; x.Value != "" || len(x.List) > 0 {
			v.Value, v.Origin, v.List = x.Value, "file "+from, x.List
		}
		if x, ok := env(s.Env); ok && x != "" {
			v.Value, v.Origin, v.List = x, "environment "+s.Env, nil
		}
		if x, ok := flags[s.Key]; ok {
			v.Value, v.Origin, v.List = x, "flag", nil
		}
		if v.List == nil {
			v.List = split(s.Key, v.Value)
		}
		for _, x := range v.List {
			if strings.TrimSpace(x) == "" {
				return nil, failure.New(failure.Usage, "%s (%s) is %q, a list with an empty element", v.Key, v.Origin, v.Value)
			}
		}
		out[s.Key] = v
	}
	return out, nil
}

// separators stand between the elements of a list written as one text.
var separators = map[string]string{"keyFile": ":", "cniConfDir": ":", "cniBinDir": ":", "prune.keepLabel": ","}

// split returns the elements of a list, nil if it is empty or not a list. Blanks
// around a comma are ignored; a path may begin with one.
func split(key, text string) []string {
	between := separators[key]
	if between == "" || text == "" {
		return nil
	}
	elements := strings.Split(text, between)
	if between == "," {
		for i, x := range elements {
			elements[i] = strings.TrimSpace(x)
		}
	}
	return elements
}

func readFile(path string) (file, string, error) {
	var f file
	asked := path != ""
	if !asked {
		path = DefaultFile
	}
	fi, err := os.Stat(path)
	if errors.Is(err, fs.ErrNotExist) && !asked {
		return f, path, nil
	}
	if err != nil {
		return f, path, failure.New(failure.Usage, "read configuration: %w", err)
	}
	if fi.Size() > fileLimit {
		return f, path, failure.New(failure.Usage, "configuration %s is %d bytes long", path, fi.Size())
	}
	b, err := os.ReadFile(path)
	if err != nil {
		return f, path, fmt.Errorf("read configuration: %w", err)
	}
	if err := yaml.UnmarshalStrict(b, &f); err != nil {
		return f, path, failure.New(failure.Usage, "configuration %s: %w", path, err)
	}
	return f, path, nil
}
