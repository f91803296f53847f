package index

import (
	"testing"

	"github.com/cocoonv2/cocoon/internal/test/leaktest"
)

func TestMain(m *testing.M) { leaktest.Main(m) }
