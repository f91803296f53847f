package main

import (
	"fmt"
	"html"
	"math"
	"os"
	"strings"
)

// chart is lines over one axis, drawn as SVG.
type chart struct {
	title, x, y string
	logX, logY  bool
	lines       []curve
}

// curve is one line of a chart.
type curve struct {
	name   string
	xs, ys []float64
}

func (c *curve) add(x, y float64) { c.xs, c.ys = append(c.xs, x), append(c.ys, y) }

// The drawing, in pixels.
const (
	chartWidth, chartHeight = 720, 420
	plotLeft, plotRight     = 70, 540
	plotTop, plotBottom     = 50, 370
	chartMargin             = 10
)

var colours = []string{"#1f77b4", "#d62728", "#2ca02c", "#9467bd", "#ff7f0e"}

// axis maps values to pixels.
type axis struct {
	low, high float64 // of the values, after the logarithm if there is one
	from, to  float64 // pixels
	log       bool
}

func (a axis) at(v float64) float64 {
	if a.log {
		v = math.Log10(v)
	}
	return a.from + (v-a.low)/(a.high-a.low)*(a.to-a.from)
}

// ticks are round values within the axis: powers of ten, or about six steps.
func (a axis) ticks() (out []float64) {
	if a.log {
		for e := math.Ceil(a.low - 1e-9); e <= a.high+1e-9; e++ {
			out = append(out, math.Pow(10, e))
		}
		return out
	}
	step := math.Pow(10, math.Floor(math.Log10((a.high-a.low)/3)))
	for _, m := range []float64{5, 2} {
		if (a.high-a.low)/(step*m) >= 3 {
			step *= m
			break
		}
	}
	for i := math.Ceil(a.low/step - 1e-9); i*step <= a.high+step*1e-9; i++ {
		out = append(out, math.Abs(i*step)) // no minus before zero
	}
	return out
}

// newAxis spans all values; a linear axis begins at zero.
func newAxis(values []float64, log bool, from, to float64) axis {
	a := axis{low: math.Inf(1), high: math.Inf(-1), from: from, to: to, log: log}
	for _, v := range values {
		if log {
			v = math.Log10(v)
		}
		a.low, a.high = min(a.low, v), max(a.high, v)
	}
	if log {
		a.low, a.high = math.Floor(a.low+1e-9), math.Ceil(a.high-1e-9)
	} else {
		a.low, a.high = 0, a.high*1.05
	}
	if a.high <= a.low {
		a.high = a.low + 1
	}
	return a
}

// svg draws the chart.
func (c *chart) svg() string {
	var xs, ys []float64
	for _, l := range c.lines {
		xs, ys = append(xs, l.xs...), append(ys, l.ys...)
	}
	ax, ay := newAxis(xs, c.logX, plotLeft, plotRight), newAxis(ys, c.logY, plotBottom, plotTop)
	var b strings.Builder
	fmt.Fprintf(&b, "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"%d\" height=\"%d\" font-family=\"sans-serif\" font-size=\"12\">\n", chartWidth, chartHeight)
	fmt.Fprintf(&b, "<rect width=\"%d\" height=\"%d\" fill=\"#ffffff\"/>\n", chartWidth, chartHeight)
	text := func(x, y float64, anchor, s string) {
		fmt.Fprintf(&b, "<text x=\"%.1f\" y=\"%.1f\" text-anchor=\"%s\" fill=\"#222222\">%s</text>\n", x, y, anchor, html.EscapeString(s))
	}
	line := func(x1, y1, x2, y2 float64, colour string) {
		fmt.Fprintf(&b, "<line x1=\"%.1f\" y1=\"%.1f\" x2=\"%.1f\" y2=\"%.1f\" stroke=\"%s\"/>\n", x1, y1, x2, y2, colour)
	}
	text(chartMargin, 18, "start", c.title)
	text((plotLeft+plotRight)/2, plotBottom+40, "middle", c.x)
	text(chartMargin, plotTop-10, "start", c.y)
	for _, t := range ax.ticks() {
		line(ax.at(t), plotTop, ax.at(t), plotBottom, "#dddddd")
		text(ax.at(t), plotBottom+18, "middle", number(t))
	}
	for _, t := range ay.ticks() {
		line(plotLeft, ay.at(t), plotRight, ay.at(t), "#dddddd")
		text(plotLeft-6, ay.at(t)+4, "end", number(t))
	}
	for i, l := range c.lines {
		colour := colours[i%len(colours)]
		var points []string
		for j := range l.xs {
			points = append(points, fmt.Sprintf("%.1f,%.1f", ax.at(l.xs[j]), ay.at(l.ys[j])))
			fmt.Fprintf(&b, "<circle cx=\"%.1f\" cy=\"%.1f\" r=\"2.5\" fill=\"%s\"/>\n", ax.at(l.xs[j]), ay.at(l.ys[j]), colour)
		}
		fmt.Fprintf(&b, "<polyline points=\"%s\" fill=\"none\" stroke=\"%s\" stroke-width=\"1.5\"/>\n", strings.Join(points, " "), colour)
		y := float64(plotTop + 12 + 20*i)
		line(plotRight+14, y-4, plotRight+34, y-4, colour)
		text(plotRight+40, y, "start", l.name)
	}
	b.WriteString("</svg>\n")
	return b.String()
}

func (c *chart) write(path string) error { return os.WriteFile(path, []byte(c.svg()), 0o644) }

// number prints a tick without needless digits.
func number(v float64) string {
	if v >= 1e4 || v == math.Trunc(v) {
		return fmt.Sprintf("%.0f", v)
	}
	return fmt.Sprintf("%.3g", v)
}
