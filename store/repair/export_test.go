package repair

// Rebuild for tests that judge it alone.
var Rebuild = rebuild
