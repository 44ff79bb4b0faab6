package main

import (
	"fmt"
	"slices"
)

// cell is the runs of one program in one case of a figure.
type cell struct {
	name, program, title string
	runs                 []result // that did not fail
	failed               []string
}

// cells gathers the runs of a section, by case and program, in the order in which they came first.
func (s section) cells() (all []cell) {
	for _, r := range s.Runs {
		i := slices.IndexFunc(all, func(c cell) bool { return c.name == r.Case && c.program == r.Program })
		if i < 0 {
			i = len(all)
			all = append(all, cell{name: r.Case, program: r.Program, title: r.Title})
		}
		if r.Failed != "" {
			all[i].failed = append(all[i].failed, r.Failed)
			continue
		}
		all[i].runs = append(all[i].runs, r)
	}
	return all
}

func (s section) cell(name, program string) (cell, bool) {
	for _, c := range s.cells() {
		if c.name == name && c.program == program && len(c.runs) > 0 {
			return c, true
		}
	}
	return cell{}, false
}

// metric is one number of a result.
type metric func(result) float64

func rate(r result) float64        { return r.Rate }
func cpu(r result) float64         { return r.CPU }
func steadyCPU(r result) float64   { return r.SteadyCPU }
func rss(r result) float64         { return float64(r.RSS) }
func firstOutput(r result) float64 { return r.First }

// median of some values, and the least and the greatest. There must be one.
func median(v []float64) (mid, low, high float64) {
	v = slices.Clone(v)
	slices.Sort(v)
	return (v[(len(v)-1)/2] + v[len(v)/2]) / 2, v[0], v[len(v)-1]
}

func (c cell) spread(f metric) (mid, low, high float64) {
	v := make([]float64, len(c.runs))
	for i, r := range c.runs {
		v[i] = f(r)
	}
	return median(v)
}

func (c cell) mid(f metric) float64 {
	mid, _, _ := c.spread(f)
	return mid
}

// ratio is the median of the ratios of the two in the same round, because a machine is not as fast in one round as in the next.
func (c cell) ratio(base cell, f metric) (v float64, ok bool) {
	var all []float64
	for _, r := range c.runs {
		i := slices.IndexFunc(base.runs, func(o result) bool { return o.Run == r.Run })
		if i >= 0 && f(base.runs[i]) > 0 {
			all = append(all, f(r)/f(base.runs[i]))
		}
	}
	if all == nil {
		return 0, false
	}
	v, _, _ = median(all)
	return v, true
}

func (c cell) noisy() (n int) {
	for _, r := range c.runs {
		if r.noisy() {
			n++
		}
	}
	return n
}

// thousands prints a number in groups of three digits.
func thousands(v float64) string {
	s := fmt.Sprintf("%.0f", v)
	for i := len(s) - 3; i > 0; i -= 3 {
		s = s[:i] + "," + s[i:]
	}
	return s
}
