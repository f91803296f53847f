package chsnap

import "github.com/cocoonv2/cocoon/internal/base/patience"

// Patience is how long a VMM is waited for, by what it is asked for; 0 is thirty
// seconds for a call.
type Patience = patience.Patience
