// Package packer writes the pages of RAM images and disks into packs, each distinct
// page once; package pack has the words, the format and the way back.
//
// A [Writer] turns the pages of one or more images into packs. For each page
// it asks, in this order: is it zero (recorded, not stored); does the parent
// have the same page at the same address, by its print ([Fingerprints]) or by its
// hash; is it anywhere in the parent's packs,
// in those of its family (other guests of the same image) or among the pages
// this Writer stored already; else it is appended to the open frame, in the
// order the pages came (what will not compress has a frame of its own). Full
// frames are compressed in parallel and written in
// order. [Writer.Flush] moves pages out of old frames of which little is used,
// until a restore needs at most half as many frames again as after a fresh
// capture, and ends the last pack; then every [ImageWriter.Finish] gives its
// map. A [Move] stores the live pages of packs again, for old packs to go.
//
// # Invariants
//
//  1. That two pages are one is decided by their hash; that a page did not change
//     may also be said by a print under a secret key.
//  2. Pages of packs under one key are reused only in packs under the same key.
//  3. Memory used by a Writer does not grow with the image except for tables of at
//     most about 24 bytes a stored page and 4 bytes a page of the image.
package packer
