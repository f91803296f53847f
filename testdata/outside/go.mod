module example.com/outside

go 1.26.0

require github.com/cocoonv2/cocoon v0.0.0

replace github.com/cocoonv2/cocoon => ../..
