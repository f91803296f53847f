package chsnap

import (
	"regexp"
	"strconv"
	"strings"
)

// Version holds the two version strings of a Cloud Hypervisor. For a release both
// agree; a build from git between two releases has the package version of the
// next.
type Version struct {
	Package string // from vmm.ping, "54.0.0": decides compatibility
	Build   string // from --version, the git revision: "v53.0-246-gae44c2971"
}

// String shows both if they differ.
func (v Version) String() string {
	if v.Build == "" || strings.HasPrefix(strings.TrimPrefix(v.Build, "v"), strings.TrimSuffix(v.Package, ".0")) {
		return v.Package
	}
	return v.Package + " (" + v.Build + ")"
}

// Major is the first number of a version such as "53.0.0" or "v53.0-12".
func Major(version string) int {
	m, _, _ := strings.Cut(strings.TrimPrefix(version, "v"), ".")
	n, err := strconv.Atoi(m)
	if err != nil {
		return 0
	}
	return n
}

// Passage says how a VMM accepts what another has saved.
type Passage int

const (
	NoWay       Passage = iota // not at all, as far as is promised
	ByMigration                // as the receiver of a migration: stream
	AnyWay
)

// From v54 on, Cloud Hypervisor promises to accept migrations from the two major
// versions before, and never from a later one. Snapshot folders it promises for
// the same major version only, at every version.
const (
	windowFrom = 54
	windowWide = 2
)

// Takes says how this VMM accepts what was saved by one of package version made,
// "" if unknown.
func (v Version) Takes(made string) Passage {
	here, there := Major(v.Package), Major(made)
	switch {
	case made == "" || here == there:
		return AnyWay
	case here >= windowFrom && there < here && there >= here-windowWide:
		return ByMigration
	}
	return NoWay
}

// between matches a build between two releases.
var between = regexp.MustCompile(`^v[0-9.]+-[0-9]+-g[0-9a-f]+`)

// release matches a release build, perhaps with a suffix added by its packager.
var release = regexp.MustCompile(`^v([0-9]+(\.[0-9]+){0,2})(-[^0-9].*)?$`)

// packageOf derives the package version from a build, "" if only the VMM itself
// knows.
func packageOf(build string) string {
	m := release.FindStringSubmatch(build)
	if m == nil || between.MatchString(build) {
		return ""
	}
	for strings.Count(m[1], ".") < 2 {
		m[1] += ".0"
	}
	return m[1]
}
