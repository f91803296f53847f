package chsnap

import "github.com/cocoonv2/cocoon/internal/base/patience"

// Patience limits the wait for a VMM, depending on the call; 0 is thirty seconds
// for a call.
type Patience = patience.Patience
