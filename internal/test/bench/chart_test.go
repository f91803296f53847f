package main

import (
	"encoding/xml"
	"io"
	"strings"
	"testing"
)

// A chart is well-formed whatever its texts hold, shows every point, and keeps
// them inside the plot.
func TestChartDrawsEveryPoint(t *testing.T) {
	one := curve{name: "a < b & c"}
	for x := 1.0; x <= 1000; x *= 10 {
		one.add(x, 3*x)
	}
	c := chart{title: "t", x: "x", y: "y", logX: true, logY: true, lines: []curve{one, {name: "flat", xs: []float64{1, 1000}, ys: []float64{5, 5}}}}
	svg := c.svg()
	d := xml.NewDecoder(strings.NewReader(svg))
	for {
		if _, err := d.Token(); err == io.EOF {
			break
		} else if err != nil {
			t.Fatal(err)
		}
	}
	if got := strings.Count(svg, "<circle"); got != 6 {
		t.Errorf("%d points drawn, want 6", got)
	}
	ax := newAxis([]float64{1, 1000}, true, plotLeft, plotRight)
	if ax.at(1) != plotLeft || ax.at(1000) != plotRight {
		t.Errorf("the axis ends at %v and %v", ax.at(1), ax.at(1000))
	}
	if got := newAxis([]float64{0, 12}, false, 0, 100).ticks(); len(got) < 4 || got[0] != 0 {
		t.Errorf("ticks %v", got)
	}
}
