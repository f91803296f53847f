package config

import (
	"strconv"
	"strings"
	"time"

	"github.com/docker/go-units"

	"github.com/cocoonv2/cocoon/internal/base/failure"
)

// ParseSize reads bytes, or K M G T (KiB … too) as powers of 1024. name is the
// setting or flag, for errors.
func ParseSize(name, s string) (int64, error) {
	n, err := units.RAMInBytes(s)
	if err != nil || n <= 0 {
		return 0, failure.New(failure.Usage, "%s %q is not a size such as 512M or 4G", name, s)
	}
	return n, nil
}

// ParseDuration reads 90s 36h 7d 2w.
func ParseDuration(name, s string) (time.Duration, error) {
	for suffix, unit := range map[string]time.Duration{"d": 24 * time.Hour, "w": 7 * 24 * time.Hour} {
		if n, ok := strings.CutSuffix(s, suffix); ok {
			v, err := strconv.ParseFloat(n, 64)
			if d := time.Duration(v * float64(unit)); err == nil && v < 1e5 && d > 0 {
				return d, nil
			}
		}
	}
	d, err := time.ParseDuration(s)
	if err != nil || d <= 0 {
		return 0, failure.New(failure.Usage, "%s %q is not a duration such as 90s, 36h, 7d or 2w", name, s)
	}
	return d, nil
}
