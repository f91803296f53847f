// Package layout holds no code: its test enforces the shape of the tree.
//
// Rooms stand on floors and imports only point down (docs/architecture.md);
// some libraries may be imported by one room alone.
package layout
