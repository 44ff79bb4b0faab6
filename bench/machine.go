package main

import (
	"fmt"
	"os"
	"runtime"
	"strings"
	"syscall"
	"time"

	"github.com/millrace-io/millrace/bench/internal/measure"
)

// meanwhile is what the machine did in a span of time, the span's own processes aside.
type meanwhile struct {
	began              time.Time
	pids               []int
	busy, stolen, ours float64
	known              bool
}

func (b *bench) watch(pids ...int) meanwhile {
	m := meanwhile{began: time.Now(), pids: append(pids, b.broker.pid)}
	m.ours = m.used()
	m.busy, m.stolen, m.known = measure.Machine()
	return m
}

// used is the CPU time of the harness and the processes watched.
func (m meanwhile) used() float64 {
	total, _ := measure.Self()
	for _, p := range m.pids {
		if u, err := measure.Of(p); err == nil {
			total += u.CPUSeconds
		}
	}
	return total
}

// others is how many processors everybody else had, and how many the machine's own host took away. known is what the processes
// watched have cost if they cannot be asked any more.
func (m meanwhile) others(known float64) (foreign, stolen float64) {
	busy, steal, ok := measure.Machine()
	span := time.Since(m.began).Seconds()
	if !ok || !m.known || span <= 0 {
		return 0, 0
	}
	return max(0, (busy-m.busy-(m.used()-m.ours)-known)/span), (steal - m.stolen) / span
}

// More than this of the machine for others, and a figure is about them too.
const (
	noisyForeign = 0.2 // processors
	noisyStolen  = 0.1
)

func (r result) noisy() bool { return r.Foreign > noisyForeign || r.Stolen > noisyStolen }

// free is how much of the disk below a directory is left.
func free(dir string) (int64, error) {
	var s syscall.Statfs_t
	if err := syscall.Statfs(dir, &s); err != nil {
		return 0, err
	}
	return int64(s.Bavail) * s.Bsize, nil
}

// reserve is what is left to others on a disk.
const reserve = 2 << 30

// unfit is why something cannot be measured here, in a line: nothing went wrong with the program.
type unfit struct{ why string }

func (u unfit) Error() string { return u.why }

// room says that the disk is too small for so many bytes, or nothing.
func (b *bench) room(bytes int64) error {
	if b.disk > 0 && bytes > b.disk {
		return unfit{fmt.Sprintf("too little disk: about %s are needed, -disk allows %s", gib(bytes), gib(b.disk))}
	}
	for _, dir := range []string{b.dir, b.broker.dataDir} {
		if dir == "" {
			continue
		}
		left, err := free(dir)
		if err != nil {
			continue // it is not on this machine
		}
		if left < bytes+reserve {
			return unfit{fmt.Sprintf("too little disk: about %s are needed, %s are free and %s of them stay so", gib(bytes), gib(left), gib(reserve))}
		}
	}
	return nil
}

func gib(bytes int64) string { return fmt.Sprintf("%.1f GiB", float64(bytes)/(1<<30)) }

func machine() string {
	model := ""
	if text, err := os.ReadFile("/proc/cpuinfo"); err == nil {
		for line := range strings.Lines(string(text)) {
			if k, v, ok := strings.Cut(line, ":"); ok && strings.TrimSpace(k) == "model name" {
				model = ", " + strings.TrimSpace(v)
				break
			}
		}
	}
	memory := ""
	if text, err := os.ReadFile("/proc/meminfo"); err == nil {
		var kb int64
		if _, err := fmt.Sscanf(string(text), "MemTotal: %d kB", &kb); err == nil {
			memory = fmt.Sprintf(", %d GiB", (kb+1<<19)>>20)
		}
	}
	return fmt.Sprintf("%s/%s, %d processors%s%s; apps, broker and meter share it", runtime.GOOS, runtime.GOARCH, runtime.NumCPU(), model, memory)
}
