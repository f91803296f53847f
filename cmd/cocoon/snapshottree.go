package main

import (
	"strings"

	"github.com/cocoonv2/cocoon/internal/base/listing"
	"github.com/cocoonv2/cocoon/store"
	"github.com/cocoonv2/cocoon/store/index"
)

// treeOrder puts each snapshot after its parent and returns its depth. One whose
// parent is not among the rows begins its own tree.
func treeOrder(rows []index.Summary) ([]index.Summary, map[store.ID]int) {
	present := map[store.ID]bool{}
	for _, s := range rows {
		present[s.ID] = true
	}
	children := map[store.ID][]index.Summary{}
	for _, s := range rows {
		parent := s.Parent
		if !present[parent] || parent == s.ID {
			parent = ""
		}
		children[parent] = append(children[parent], s)
	}
	depth := map[store.ID]int{}
	var out []index.Summary
	var visit func(parent store.ID, level int)
	visit = func(parent store.ID, level int) {
		for _, s := range children[parent] {
			depth[s.ID] = level
			out = append(out, s)
			visit(s.ID, level+1)
		}
	}
	visit("", 0)
	return out, depth
}

// treeColumns draws the depth in front of the name.
func treeColumns(o *listing.Options, depth map[store.ID]int) []listing.Column[index.Summary] {
	columns := snapshotColumns(o)
	for i := range columns {
		if columns[i].Name == "NAME" {
			plain := columns[i].Cell
			columns[i].Cell = func(s index.Summary) string {
				if depth[s.ID] == 0 {
					return plain(s)
				}
				return strings.Repeat("   ", depth[s.ID]-1) + "└─ " + plain(s)
			}
		}
	}
	return columns
}
