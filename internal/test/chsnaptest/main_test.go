package chsnaptest

import (
	"runtime"
	"testing"

	"github.com/cocoonv2/cocoon/internal/test/leaktest"
)

func init() { runtime.LockOSThread() } // TestMain is the first thread's, the only one that never ends

func TestMain(m *testing.M) { leaktest.Main(m) }
