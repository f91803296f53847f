package sim

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"
)

// failpoints decides which call goes wrong and how, from CHSIM_FAIL:
//
//	call=action[#N][,call=action…]      vm.snapshot=fail#2,vm.pause=slow:200ms
//
// call is an endpoint name (vm.snapshot, vmm.ping) or a message of a migration
// that is received (see receivePhases); #N limits it to the N-th call of that name in
// this process, counted from 1. Actions:
//
//	fail        500 with the chain "…","injected failure"; nothing is done
//	hang        never answers and lets no other call through
//	die         the process ends as if by SIGKILL, nothing is done
//	slow:DUR    waits DUR (time.ParseDuration), then does the call
//	late-fail   does the call, then answers 500
//	late-hang   does the call, then never answers
//	late-die    does the call, then ends without an answer
//	enospc      vm.snapshot only: the disk is full half-way through memory-ranges
//
// The phases of a migration that this process sends are named like calls:
// migration.Start, .Config, .Memory, .State, .Complete, with fail (close the
// connection), die, hang, slow and
//
//	stall       sends nothing more until the peer closes the connection
//
// Those of Memory strike half-way through its pages; Memory#1 is the full pass.
type failpoints struct {
	rules []failRule

	mu    sync.Mutex // guards calls: a migration has a goroutine of its own
	calls map[string]int
}

type failRule struct {
	call, action string
	delay        time.Duration
	nth          int
}

// failure actions as written in CHSIM_FAIL.
const (
	actFail     = "fail"
	actHang     = "hang"
	actDie      = "die"
	actSlow     = "slow"
	actLateFail = "late-fail"
	actLateHang = "late-hang"
	actLateDie  = "late-die"
	actNoSpace  = "enospc"
	actStall    = "stall"
)

// receivePhases are the messages of vm.receive-migration that can go wrong; lane
// is RAM on a further connection.
var receivePhases = []string{"receive.start", "receive.config", "receive.memory", "receive.lane", "receive.state", "receive.complete"}

// phasePrefix begins the name of a migration's phase.
const phasePrefix = "migration."

func isPhase(name string) bool {
	for _, c := range []wireCommand{wireStart, wireConfig, wireMemory, wireState, wireComplete} {
		if name == phasePrefix+c.String() {
			return true
		}
	}
	return slices.Contains(receivePhases, name)
}

// parseFailpoints reads the CHSIM_FAIL syntax; a rule it does not understand is
// an error, so that a misspelt test does not pass by accident.
func parseFailpoints(text string) (*failpoints, error) {
	f := &failpoints{calls: map[string]int{}}
	for _, part := range strings.FieldsFunc(text, func(r rune) bool { return r == ',' }) {
		rule, err := parseFailRule(strings.TrimSpace(part))
		if err != nil {
			return nil, fmt.Errorf("reading CHSIM_FAIL rule %q: %w", part, err)
		}
		f.rules = append(f.rules, rule)
	}
	return f, nil
}

func parseFailRule(part string) (failRule, error) {
	call, action, ok := strings.Cut(part, "=")
	if !ok {
		return failRule{}, fmt.Errorf("no '='")
	}
	if _, known := endpoints()[call]; !known && !isPhase(call) {
		return failRule{}, fmt.Errorf("unknown call %q", call)
	}
	rule := failRule{call: call}
	action, nth, counted := strings.Cut(action, "#")
	if counted {
		n, err := strconv.Atoi(nth)
		if err != nil || n < 1 {
			return failRule{}, fmt.Errorf("bad call number %q", nth)
		}
		rule.nth = n
	}
	action, delay, timed := strings.Cut(action, ":")
	rule.action = action
	switch action {
	case actSlow:
		d, err := time.ParseDuration(delay)
		if err != nil {
			return failRule{}, err
		}
		rule.delay = d
		return rule, nil
	case actFail, actHang, actDie, actLateFail, actLateHang, actLateDie, actNoSpace, actStall:
		if timed {
			return failRule{}, fmt.Errorf("action %s takes no duration", action)
		}
		return rule, nil
	}
	return failRule{}, fmt.Errorf("unknown action %q", action)
}

// next counts one visit of call and returns the rule that applies to it, or a
// rule with an empty action.
func (f *failpoints) next(call string) failRule {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.calls[call]++
	for _, r := range f.rules {
		if r.call == call && (r.nth == 0 || r.nth == f.calls[call]) {
			return r
		}
	}
	return failRule{}
}
