package gc

import (
	"flag"
	"fmt"
	"os"
	"testing"

	"github.com/cocoonv2/cocoon/internal/test/inmemory"
	"github.com/cocoonv2/cocoon/internal/test/leaktest"
)

func TestMain(m *testing.M) {
	// Of each model so many random sequences a run: make models takes a thousand.
	if err := flag.Set("rapid.checks", "30"); err != nil {
		fmt.Println("FAIL:", err)
		os.Exit(1)
	}
	leaktest.Main(inmemory.Tests(m))
}
