package network

import (
	"flag"
	"fmt"
	"os"
	"testing"

	"github.com/cocoonv2/cocoon/internal/test/leaktest"
	"github.com/cocoonv2/cocoon/internal/test/networktest"
)

func TestMain(m *testing.M) {
	flag.Parse()
	switch {
	case flag.Lookup("test.fuzz").Value.String() != "": // nothing that is fuzzed touches the host
	case os.Geteuid() != 0:
		fmt.Println("network: tests that need namespaces are skipped: not root")
	case !networktest.Isolated():
		code, err := networktest.Again(os.Args[1:]...)
		if err != nil {
			fmt.Println("network:", err)
		}
		os.Exit(code)
	default:
		if err := networktest.Prepare(); err != nil {
			fmt.Println("network: prepare the namespaces of the tests:", err)
			os.Exit(1)
		}
	}
	leaktest.Main(m)
}

func needRoot(t testing.TB) {
	t.Helper()
	if !networktest.Isolated() {
		t.Skip("needs root, to make namespaces")
	}
}
