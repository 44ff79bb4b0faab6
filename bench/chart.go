package main

import (
	"fmt"
	"html"
	"math"
	"os"
	"slices"
	"strconv"
	"strings"
)

// draw writes the picture of a figure: a bar for each case and program, or lines over time where there are samples. A section without
// figures has no picture.
func draw(path string, f figure, s section) error {
	text := ""
	if lines := s.lines(); lines != nil {
		text = drawLines(f, lines)
	} else {
		text = drawBars(f, s)
	}
	if text == "" {
		return nil
	}
	return os.WriteFile(path, []byte(text), 0o644)
}

// palette has a color for each program of a picture.
var palette = []string{"#9aa5b1", "#57606a", "#1f6feb", "#54aeff", "#d29922", "#cf222e", "#2da44e", "#8250df", "#bf3989", "#6e4a1e"}

// picture is an SVG on the way: plain shapes and text, readable without color and on any background.
type picture struct{ strings.Builder }

func (p *picture) text(x, y float64, anchor, more, s string) {
	fmt.Fprintf(p, `<text x="%.0f" y="%.0f" text-anchor="%s"%s>%s</text>`+"\n", x, y, anchor, more, html.EscapeString(s))
}

func (p *picture) stroke(x1, y1, x2, y2 float64, color string) {
	fmt.Fprintf(p, `<line x1="%.1f" y1="%.1f" x2="%.1f" y2="%.1f" stroke="%s"/>`+"\n", x1, y1, x2, y2, color)
}

const bold = ` font-weight="bold"`

func (p *picture) frame(width, height float64) string {
	return fmt.Sprintf(`<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 %.0f %.0f" width="%.0f" height="%.0f" font-family="sans-serif" font-size="12" fill="#24292f">`+
		"\n"+`<rect width="100%%" height="100%%" fill="#ffffff"/>`+"\n%s</svg>\n", width, height, width, height, p.String())
}

const (
	pictureWidth = 860.0
	labelWidth   = 270.0
	barWidth     = 480.0
	rowHeight    = 22.0
)

// drawBars shows the median of each case and program, and a line from the least to the greatest.
func drawBars(f figure, s section) string {
	show, unit := f.of, f.unit
	if show == nil {
		show, unit = rate, "records/s"
	}
	cells := slices.DeleteFunc(s.cells(), func(c cell) bool { return len(c.runs) == 0 })
	slices.SortStableFunc(cells, func(x, y cell) int { // cases together, as they came
		first := func(c cell) int { return slices.IndexFunc(cells, func(o cell) bool { return o.name == c.name }) }
		return first(x) - first(y)
	})
	top := 0.0
	for _, c := range cells {
		_, _, high := c.spread(show)
		top = max(top, high)
	}
	if top == 0 {
		return ""
	}
	var p picture
	p.text(12, 24, "start", bold+` font-size="15"`, f.title)
	p.text(12, 42, "start", ` fill="#57606a"`, unit+": median, least and greatest")
	scale := barWidth / nice(top)
	y, name := 54.0, ""
	var programs []string
	for _, c := range cells {
		if c.name != name {
			name = c.name
			y += rowHeight
			p.text(12, y, "start", bold, name)
			y += 8
		}
		color := slices.Index(programs, c.program)
		if color < 0 {
			color, programs = len(programs), append(programs, c.program)
		}
		mid, low, high := c.spread(show)
		p.text(labelWidth-8, y+14, "end", "", c.title)
		fmt.Fprintf(&p, `<rect x="%.0f" y="%.0f" width="%.1f" height="16" fill="%s"/>`+"\n", labelWidth, y+2, max(1, mid*scale), palette[color%len(palette)])
		if high > low {
			p.stroke(labelWidth+low*scale, y+10, labelWidth+high*scale, y+10, "#24292f")
		}
		p.text(labelWidth+max(mid, high)*scale+6, y+14, "start", "", short(mid))
		y += rowHeight
	}
	p.stroke(labelWidth, 54, labelWidth, y, "#24292f")
	return p.frame(pictureWidth, y+16)
}

// line is a value over time.
type line struct {
	name string
	x, y []float64
}

func drawLines(f figure, lines []line) string {
	const left, top, width, height = 60.0, 60.0, 770.0, 300.0
	maxX, maxY := 0.0, 0.0
	for _, l := range lines {
		maxX, maxY = max(maxX, slices.Max(l.x)), max(maxY, slices.Max(l.y))
	}
	maxX, maxY = max(maxX, 1), nice(max(maxY, 1))
	var p picture
	p.text(12, 24, "start", bold+` font-size="15"`, f.title)
	p.text(12, 42, "start", ` fill="#57606a"`, f.unit+" over seconds")
	for i := range 5 {
		part := float64(i) / 4
		y := top + height*(1-part)
		p.stroke(left, y, left+width, y, "#d0d7de")
		p.text(left-6, y+4, "end", "", short(maxY*part))
		p.text(left+width*part, top+height+18, "middle", "", short(math.Round(maxX*part)))
	}
	for i, l := range lines {
		color := palette[(i+2)%len(palette)]
		points := make([]string, len(l.x))
		for k := range l.x {
			points[k] = fmt.Sprintf("%.1f,%.1f", left+width*l.x[k]/maxX, top+height*(1-l.y[k]/maxY))
		}
		fmt.Fprintf(&p, `<polyline points="%s" fill="none" stroke="%s" stroke-width="1.5"/>`+"\n", strings.Join(points, " "), color)
		p.text(left+width, 24+16*float64(i), "end", ` fill="`+color+`"`, l.name)
	}
	return p.frame(pictureWidth, top+height+30)
}

// nice is a round number not below v, for the end of an axis.
func nice(v float64) float64 {
	p := math.Pow(10, math.Floor(math.Log10(v)))
	for _, n := range []float64{1, 1.5, 2, 3, 4, 5, 6, 8} {
		if v <= n*p {
			return n * p
		}
	}
	return 10 * p
}

// short prints a number in about three digits: 250k, 1.5M, 0.31.
func short(n float64) string {
	unit := ""
	switch {
	case n >= 1e6:
		n, unit = n/1e6, "M"
	case n >= 1e3:
		n, unit = n/1e3, "k"
	}
	if n >= 100 {
		return strconv.FormatFloat(n, 'f', 0, 64) + unit
	}
	return strconv.FormatFloat(n, 'g', 3, 64) + unit
}
