package measure

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync/atomic"
	"syscall"
	"time"
)

// Self is what this process has cost so far.
func Self() (cpuSeconds float64, rssMax int64) {
	var u syscall.Rusage
	if syscall.Getrusage(syscall.RUSAGE_SELF, &u) != nil {
		return 0, 0
	}
	seconds := func(t syscall.Timeval) float64 { return float64(t.Sec) + float64(t.Usec)/1e6 }
	return seconds(u.Utime) + seconds(u.Stime), int64(u.Maxrss) << 10
}

// Usage is what a process has cost, its children that live included.
type Usage struct {
	CPUSeconds float64
	RSSMax     int64 // bytes; the sum of the peaks
}

// Of reads the usage of a process and the processes below it. It needs /proc; a process that cannot be seen is an error.
func Of(pid int) (Usage, error) {
	tree, all, err := below(pid)
	if err != nil {
		return Usage{}, err
	}
	var u Usage
	for _, id := range tree {
		u.CPUSeconds += all[id].cpu
		u.RSSMax += statusField(id, "VmHWM:")
	}
	return u, nil
}

// below is a process and all that it has started.
func below(pid int) (tree []int, all map[int]process, err error) {
	if all, err = processes(); err != nil {
		return nil, nil, err
	}
	if _, ok := all[pid]; !ok {
		return nil, nil, fmt.Errorf("process %d is not in /proc", pid)
	}
	children := map[int][]int{}
	for id, p := range all {
		children[p.parent] = append(children[p.parent], id)
	}
	tree = []int{pid}
	for i := 0; i < len(tree); i++ {
		tree = append(tree, children[tree[i]]...)
	}
	return tree, all, nil
}

type process struct {
	parent int
	cpu    float64
}

// ticks per second of the times in /proc: 100 on every Linux that Go runs on.
const ticks = 100

func processes() (map[int]process, error) {
	files, err := filepath.Glob("/proc/[0-9]*/stat")
	if err != nil || len(files) == 0 {
		return nil, errors.New("there is no /proc")
	}
	all := map[int]process{}
	for _, f := range files {
		text, err := os.ReadFile(f)
		if err != nil {
			continue // it has ended
		}
		id, p, err := parseStat(string(text))
		if err != nil {
			return nil, fmt.Errorf("%s: %w", f, err)
		}
		all[id] = p
	}
	return all, nil
}

// parseStat takes /proc/<pid>/stat apart. The second field is the program's name and may hold anything, parentheses too.
func parseStat(text string) (id int, p process, err error) {
	end := strings.LastIndexByte(text, ')')
	if end < 0 {
		return 0, p, errors.New("no program name")
	}
	first, _, _ := strings.Cut(text, " ")
	f := strings.Fields(text[end+1:])
	if len(f) < 13 {
		return 0, p, errors.New("too short")
	}
	var numbers [4]int64
	for i, s := range []string{first, f[1], f[11], f[12]} { // pid, parent, user, system
		if numbers[i], err = strconv.ParseInt(s, 10, 64); err != nil {
			return 0, p, err
		}
	}
	return int(numbers[0]), process{int(numbers[1]), float64(numbers[2]+numbers[3]) / ticks}, nil
}

// statusField is a size in /proc/<pid>/status.
func statusField(pid int, field string) int64 {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		return 0
	}
	for line := range strings.Lines(string(text)) {
		if rest, ok := strings.CutPrefix(line, field); ok {
			kb, _ := strconv.ParseInt(strings.TrimSuffix(strings.TrimSpace(rest), " kB"), 10, 64)
			return kb << 10
		}
	}
	return 0
}

// Machine is what all processors together have done since the start, in seconds: for whomever, and while another guest of the
// same host had them. ok is false where it cannot be known.
func Machine() (busy, stolen float64, ok bool) {
	text, err := os.ReadFile("/proc/stat")
	if err != nil {
		return 0, 0, false
	}
	line, _, _ := strings.Cut(string(text), "\n")
	return parseMachine(line)
}

func parseMachine(line string) (busy, stolen float64, ok bool) {
	f := strings.Fields(line)
	if len(f) < 9 || f[0] != "cpu" {
		return 0, 0, false
	}
	for i, s := range f[1:9] { // user nice system idle iowait irq softirq steal
		n, err := strconv.ParseFloat(s, 64)
		if err != nil {
			return 0, 0, false
		}
		switch i {
		case 3, 4:
		case 7:
			stolen = n / ticks
		default:
			busy += n / ticks
		}
	}
	return busy, stolen, true
}

// Probe is how fast one processor is just now: millions of rounds per second of a small loop. It takes the time d.
func Probe(d time.Duration) float64 {
	const batch = 1 << 14
	began, rounds, x := time.Now(), 0, uint64(88172645463325252)
	for time.Since(began) < d {
		for range batch {
			x ^= x << 13
			x ^= x >> 7
			x ^= x << 17
		}
		rounds += batch
	}
	probed.Store(x) // or the loop would be nothing to do
	return float64(rounds) / time.Since(began).Seconds() / 1e6
}

var probed atomic.Uint64

// Resident is how much memory a process and those below it have just now.
func Resident(pid int) (bytes int64, err error) {
	tree, _, err := below(pid)
	for _, id := range tree {
		bytes += statusField(id, "VmRSS:")
	}
	return bytes, err
}
