package sim

import (
	"encoding/json"
	"fmt"
	"strconv"
	"strings"
)

// options is the command line after parsing.
type options struct {
	socket      string
	logFile     string
	events      string // --event-monitor
	restore     *restoreRequest
	config      *vmConfig // nil without a payload: an empty machine
	versionOnly bool
}

// usageError is a mistake in the shape of the command line (exit 2); a value
// that cannot be parsed is an ordinary error (exit 1), as in the real one.
type usageError struct{ text string }

func (e *usageError) Error() string { return e.text }

// parseArgs reads the subset of cloud-hypervisor's options that the package
// comment of chsnaptest lists. Values follow as one or several arguments.
func parseArgs(args []string) (*options, error) {
	o := &options{}
	c := newConfig()
	payload := payloadConfig{}
	for len(args) > 0 {
		name, values, rest, err := nextOption(args)
		if err != nil {
			return nil, err
		}
		args = rest
		if err := o.apply(c, &payload, name, values); err != nil {
			return nil, err
		}
	}
	if payload != (payloadConfig{}) {
		c.Payload = &payload
		o.config = c
	}
	switch {
	case o.versionOnly:
	case o.config != nil && o.restore != nil:
		return nil, &usageError{"the argument '--restore' cannot be used with the options of a new VM"}
	case o.config == nil && o.restore == nil && o.socket == "":
		return nil, &usageError{"the required argument '--api-socket' was not provided"}
	}
	return o, nil
}

// nextOption takes one option and its values off args.
func nextOption(args []string) (name string, values, rest []string, err error) {
	name, value, joined := strings.Cut(args[0], "=")
	rest = args[1:]
	if !strings.HasPrefix(name, "-") {
		return "", nil, nil, &usageError{fmt.Sprintf("unexpected argument '%s' found", args[0])}
	}
	if joined {
		return name, []string{value}, rest, nil
	}
	for len(rest) > 0 && !strings.HasPrefix(rest[0], "-") {
		values = append(values, rest[0])
		rest = rest[1:]
	}
	return name, values, rest, nil
}

func (o *options) apply(c *vmConfig, p *payloadConfig, name string, values []string) error {
	switch name {
	case "-v", "-vv", "-vvv", "--no-shutdown":
		return nil
	case "--version", "-V":
		o.versionOnly = true
		return nil
	case "--watchdog":
		c.Watchdog = true
		return nil
	case "--pvpanic":
		c.Pvpanic = true
		return nil
	case "--landlock":
		c.Landlock = true
		return nil
	case "--rtc":
		c.RTC = json.RawMessage(`{"id":"__rtc","pci_segment":0}`)
		return nil
	}
	if len(values) == 0 {
		return &usageError{fmt.Sprintf("a value is required for '%s' but none was supplied", name)}
	}
	if single, ok := o.single(c, p)[name]; ok {
		if len(values) > 1 {
			return &usageError{fmt.Sprintf("unexpected argument '%s' found", values[1])}
		}
		if err := single(values[0]); err != nil {
			return fmt.Errorf("Error parsing %s: %w", name, err)
		}
		return nil
	}
	for _, v := range values {
		if err := repeatable(c, name, v); err != nil {
			return err
		}
	}
	return nil
}

// single lists the options that take exactly one value.
func (o *options) single(c *vmConfig, p *payloadConfig) map[string]func(string) error {
	keep := func(dst *string) func(string) error {
		return func(v string) error { *dst = v; return nil }
	}
	return map[string]func(string) error{
		"--api-socket":    func(v string) error { o.socket = strings.TrimPrefix(v, "path="); return nil },
		"--log-file":      keep(&o.logFile),
		"--event-monitor": keep(&o.events),
		"--seccomp":       func(string) error { return nil },
		"--kernel":        keep(&p.Kernel),
		"--firmware":      keep(&p.Firmware),
		"--initramfs":     keep(&p.Initramfs),
		"--cmdline":       keep(&p.Cmdline),
		"--cpus":          func(v string) error { return parseCPUs(&c.CPUs, v) },
		"--memory":        func(v string) error { return parseMemory(&c.Memory, v) },
		"--serial":        func(v string) error { return parseConsole(&c.Serial, v) },
		"--console":       func(v string) error { return parseConsole(&c.Console, v) },
		"--vsock":         func(v string) error { return parseVsock(c, v) },
		"--balloon":       one(&c.Balloon),
		"--rng":           one(&c.RNG),
		"--platform":      one(&c.Platform),
		"--tpm":           one(&c.TPM),
		"--restore":       o.parseRestore,
	}
}

func repeatable(c *vmConfig, name, value string) error {
	switch name {
	case "--disk":
		d := newDisk()
		if err := setAll(value, diskKeys(&d)); err != nil {
			return fmt.Errorf("Error parsing --disk: %w", err)
		}
		c.Disks = append(c.Disks, d)
	case "--net":
		n := newNet()
		if err := setAll(value, netKeys(&n)); err != nil {
			return fmt.Errorf("Error parsing --net: %w", err)
		}
		c.Net = append(c.Net, n)
	case "--rate-limit-group":
		return parseRateLimit(c, value)
	case "--memory-zone":
		z := zoneConfig{}
		if err := setAll(value, zoneKeys(&z)); err != nil {
			return fmt.Errorf("Error parsing --memory-zone: %w", err)
		}
		c.Memory.Zones = append(c.Memory.Zones, z)
	default:
		list, ok := c.carried()[name]
		if !ok {
			return &usageError{fmt.Sprintf("unexpected argument '%s' found", name)}
		}
		return another(list, value)
	}
	return nil
}

func (o *options) parseRestore(value string) error {
	r := &restoreRequest{}
	url := ""
	err := setAll(value, map[string]setter{
		"source_url": text(&url), "prefault": toggle(&r.Prefault), "resume": toggle(&r.Resume),
		"memory_restore_mode": text(&r.Mode), "net_fds": ignored,
	})
	r.SourceURL = &url
	o.restore = r
	return err
}

// setter stores one option's value; it is called with the text after '='.
type setter func(value string) error

func text(dst *string) setter { return func(v string) error { *dst = v; return nil } }

func ignored(string) error { return nil }

func toggle(dst *bool) setter {
	return func(v string) error {
		switch v {
		case "on", "true", "yes":
			*dst = true
		case "off", "false", "no":
			*dst = false
		default:
			return fmt.Errorf("unable to convert %s to a toggle", v)
		}
		return nil
	}
}

func number(dst *int) setter {
	return func(v string) error {
		n, err := strconv.Atoi(v)
		if err == nil {
			*dst = n
		}
		return err
	}
}

func bytesValue(dst *uint64) setter {
	return func(v string) error {
		n, err := parseBytes(v)
		if err == nil {
			*dst = n
		}
		return err
	}
}

// setAll reads "key=value,key=value"; a comma inside [ ] or " " belongs to the
// value.
func setAll(list string, keys map[string]setter) error {
	for _, item := range splitCommas(list) {
		key, value, _ := strings.Cut(item, "=")
		set, ok := keys[key]
		if !ok {
			return fmt.Errorf("unknown option: %s", key)
		}
		if err := set(strings.Trim(value, `"`)); err != nil {
			return fmt.Errorf("unable to convert %s for %s", value, key)
		}
	}
	return nil
}

func splitCommas(list string) []string {
	depth, quoted := 0, false
	return strings.FieldsFunc(list, func(r rune) bool {
		switch r {
		case '[':
			depth++
		case ']':
			depth--
		case '"':
			quoted = !quoted
		}
		return r == ',' && depth == 0 && !quoted
	})
}

// parseBytes reads 1024, 4K, 128M, 2G or 1T.
func parseBytes(s string) (uint64, error) {
	digits, shift := s, 0
	if i := strings.IndexAny(s, "KMGT"); i > 0 && i == len(s)-1 {
		digits, shift = s[:i], 10*(1+strings.IndexByte("KMGT", s[i]))
	}
	n, err := strconv.ParseUint(digits, 10, 64)
	if err != nil || n > 1<<46>>shift {
		return 0, fmt.Errorf("bad size %q", s)
	}
	return n << shift, nil
}
