package house

import (
	"errors"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/docker/go-units"

	"github.com/cocoonv2/cocoon/internal/base/config"
	"github.com/cocoonv2/cocoon/internal/base/failure"
	"github.com/cocoonv2/cocoon/internal/base/hint"
	"github.com/cocoonv2/cocoon/internal/base/patience"
	"github.com/cocoonv2/cocoon/internal/engine/keeper"
	"github.com/cocoonv2/cocoon/internal/engine/vm"
	"github.com/cocoonv2/cocoon/store/ramcache"
)

// Settings are those of docs/cli.md by key, as returned by config.Load. They are
// interpreted here and nowhere else; an invalid value is failure.Usage.
type Settings map[string]config.Value

// Settle determines each setting: given ones come before those of the environment,
// of the file, and the defaults. A file of "" is $COCOON_CONFIG, or the default one.
func Settle(given map[string]string, env func(string) (string, bool), file string) (Settings, error) {
	for key := range given {
		if !slices.ContainsFunc(config.Settings(), func(s config.Setting) bool { return s.Key == key }) {
			return nil, failure.Hint(failure.New(failure.Usage, "setting %q is unknown", key), hint.Settings.Of()+" lists them")
		}
	}
	if file == "" {
		file, _ = env("COCOON_CONFIG")
	}
	return config.Load(given, env, file)
}

// Of returns the text of one.
func (s Settings) Of(key string) string { return s[key].Value }

// Patience is vmmTimeout.
func (s Settings) Patience() (patience.Patience, error) {
	d, err := config.ParseDuration("vmmTimeout", s.Of("vmmTimeout"))
	return patience.Patience(d), err
}

// Check validates those that are only used late.
func (s Settings) Check() error {
	_, err := s.CacheCap()
	err = errors.Join(err, s.vms(&vm.Options{}))
	if v := s.Of("cacheAhead"); v != "on" && v != "off" {
		err = errors.Join(err, failure.New(failure.Usage, "cacheAhead %q: on or off", v))
	}
	return err
}

// CacheCap reads cacheMaxBytes: a size, or 0 to keep nothing that is not mapped.
func (s Settings) CacheCap() (int64, error) {
	v := s.Of("cacheMaxBytes")
	if v == "0" {
		return 0, nil
	}
	return config.ParseSize("cacheMaxBytes", v)
}

// maxBytes reads maxStoreSize, 0 for no limit.
func (s Settings) maxBytes() (int64, error) {
	v := s.Of("maxStoreSize")
	if v == "" {
		return 0, nil
	}
	return config.ParseSize("maxStoreSize", v)
}

// grace is how long doubtful objects stay; "0" is not at all.
func (s Settings) grace() (time.Duration, error) {
	if s.Of("gcGrace") == "0" {
		return -1, nil
	}
	return config.ParseDuration("gcGrace", s.Of("gcGrace"))
}

// RepackThreshold reads a share such as 50%, as a number between 0 and 1; name is
// the flag or setting, for errors.
func RepackThreshold(name, value string) (float64, error) {
	n, err := strconv.ParseFloat(strings.TrimSuffix(value, "%"), 64)
	if err != nil || !(n > 0 && n <= 100) || !strings.HasSuffix(value, "%") {
		return 0, failure.New(failure.Usage, "%s %q: a share such as 50%%, above 0%% and at most 100%%", name, value)
	}
	return n / 100, nil
}

// vms are the settings of how VMs run.
func (s Settings) vms(o *vm.Options) (err error) {
	o.RunDir, o.Binary, o.CPUArgs = s.Of("runDir"), s.Of("hypervisor"), s.Of("cpuArgs")
	if o.Patience, err = s.Patience(); err != nil {
		return err
	}
	if o.StopTimeout, err = config.ParseDuration("vmStopTimeout", s.Of("vmStopTimeout")); err != nil {
		return err
	}
	switch o.Confine = vm.Confinement(s.Of("vmLandlock")); o.Confine {
	case vm.ConfinedIfPossible, vm.Confined, vm.Unconfined:
	default:
		return failure.New(failure.Usage, "vmLandlock %q: auto, on or off", o.Confine)
	}
	if o.Scopes, err = s.scopes(); err != nil {
		return err
	}
	if o.SerialLogMax, err = config.ParseSize("serialLogMax", s.Of("serialLogMax")); err != nil {
		return err
	}
	if o.SerialLogMax < keeper.MinLogMax {
		return failure.New(failure.Usage, "serialLogMax %q: at least %s", s.Of("serialLogMax"), units.BytesSize(keeper.MinLogMax))
	}
	o.OOMScoreAdj, err = strconv.Atoi(s.Of("vmmOOMScoreAdj"))
	if err != nil || o.OOMScoreAdj < -1000 || o.OOMScoreAdj > 1000 {
		return failure.New(failure.Usage, "vmmOOMScoreAdj %q: -1000 to 1000, or 0 to leave it as it is", s.Of("vmmOOMScoreAdj"))
	}
	return nil
}

// minMemoryOverhead is more than any VMM was seen to use beyond its guest's RAM.
const minMemoryOverhead = 64 << 20

// scopes are the settings of the VMMs' cgroups.
func (s Settings) scopes() (c vm.Scopes, err error) {
	switch c.Kind = vm.Scoping(s.Of("vmScope")); c.Kind {
	case vm.ScopedIfPossible, vm.Scoped, vm.Unscoped:
	default:
		return c, failure.New(failure.Usage, "vmScope %q: auto, on or off", c.Kind)
	}
	if v := s.Of("vmMemoryOverhead"); v != "none" {
		if c.MemoryOverhead, err = config.ParseSize("vmMemoryOverhead", v); err != nil {
			return c, err
		}
		if c.MemoryOverhead < minMemoryOverhead {
			return c, failure.New(failure.Usage, "vmMemoryOverhead %q: at least %s, or none for no bound", v, units.BytesSize(minMemoryOverhead))
		}
	}
	c.CPUWeight, err = strconv.Atoi(s.Of("vmCPUWeight"))
	if err != nil || c.CPUWeight < 1 || c.CPUWeight > 10000 {
		return c, failure.New(failure.Usage, "vmCPUWeight %q: 1 to 10000", s.Of("vmCPUWeight"))
	}
	return c, nil
}

// cacheCap is CacheCap as the cache takes it.
func (s Settings) cacheCap() (ramcache.Cap, error) {
	bytes, err := s.CacheCap()
	return ramcache.AtMost(bytes), err
}
