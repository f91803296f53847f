// Package packer writes the pages of RAM images and disks into packs, each
// distinct page once; package pack defines the terms and the format, and reads
// them back.
//
// A [Writer] turns the pages of one or more images into packs. For each page it
// checks, in this order: is it zero (recorded, not stored); does the parent have
// the same page at the same address, by its fingerprint ([Fingerprints]) or by
// its hash; is it anywhere in the parent's packs, in those of its family (other
// guests of the same image) or among the pages this Writer has stored; otherwise
// it is appended to the open frame, in the order of arrival (incompressible pages
// have frames of their own). Full frames are compressed in parallel and written
// in order. [Writer.Flush] moves pages out of old frames of which little is used,
// until a restore needs at most half as many frames again as after a fresh
// capture, and ends the last pack; then every [ImageWriter.Finish] returns its
// map. A [Move] stores the live pages of packs again, so that old packs can go.
//
// # Invariants
//
//  1. The hash alone decides that two pages are the same; that a page did not
//     change may also be shown by a fingerprint under a secret key.
//  2. Pages of packs under one key are reused only in packs under the same key.
//  3. Memory used by a Writer does not grow with the image except for tables of at
//     most about 24 bytes a stored page and 4 bytes a page of the image.
package packer
