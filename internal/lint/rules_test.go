package lint

import (
	"fmt"
	"go/ast"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
)

// pure rooms are state machines and data: no clock, no goroutine. What they need to know is handed in.
var pure = []string{"internal/task", "topology", "stream", "processor", "window", "ttl", "timers", "serde", "internal/ordkey", "internal/runtime/assign"}

func checkClock(files []source) (wrong []string) {
	clocks := []string{"Now", "Since", "Until", "After", "AfterFunc", "Tick", "NewTimer", "NewTicker", "Sleep"}
	for _, f := range files {
		if f.test || !slices.Contains(pure, f.room) {
			continue
		}
		for _, c := range f.calls() {
			if c.pkg == "time" && slices.Contains(clocks, c.name) {
				wrong = append(wrong, fmt.Sprintf("%s: time.%s: %s is handed the time by whoever drives it", c.at, c.name, f.room))
			}
		}
	}
	return wrong
}

func checkGoroutines(files []source) (wrong []string) {
	for _, f := range files {
		if f.test || !slices.Contains(pure, f.room) {
			continue
		}
		ast.Inspect(f.ast, func(n ast.Node) bool {
			if g, ok := n.(*ast.GoStmt); ok {
				wrong = append(wrong, fmt.Sprintf("%s: a goroutine: only internal/runtime starts any", f.at(g)))
			}
			return true
		})
	}
	return wrong
}

func checkSleeps(files []source) (wrong []string) {
	for _, f := range files {
		if !f.test {
			continue
		}
		for _, c := range f.calls() {
			if c.pkg == "time" && c.name == "Sleep" {
				wrong = append(wrong, fmt.Sprintf("%s: time.Sleep in a test: wait for what it waits for (a channel, a condition, synctest)", c.at))
			}
		}
	}
	return wrong
}

func checkSkips(files []source) (wrong []string) {
	for _, f := range files {
		if !f.test {
			continue
		}
		for _, c := range f.calls() {
			if slices.Contains([]string{"$t", "$b", "$tb", "$f"}, c.pkg) && slices.Contains([]string{"Skip", "Skipf", "SkipNow"}, c.name) {
				wrong = append(wrong, fmt.Sprintf("%s: a skipped test proves nothing: let it fail with a remedy, or delete it", c.at))
			}
		}
	}
	return wrong
}

func checkPrints(files []source) (wrong []string) {
	for _, f := range files {
		if _, isGuest := guest(f.room); f.test || isGuest {
			continue
		}
		for _, c := range f.calls() {
			switch {
			case c.pkg == "fmt" && strings.HasPrefix(c.name, "Print"), c.pkg == "" && (c.name == "print" || c.name == "println"):
				wrong = append(wrong, fmt.Sprintf("%s: %s: a library does not own the terminal: return it, or log it to the user's logger", c.at, c.name))
			case c.pkg == "log":
				wrong = append(wrong, fmt.Sprintf("%s: log.%s: the application's logger is a *slog.Logger in the configuration", c.at, c.name))
			case c.pkg == "os" && c.name == "Exit":
				wrong = append(wrong, fmt.Sprintf("%s: os.Exit: only main decides when a program ends", c.at))
			}
		}
	}
	return wrong
}

var unfinished = regexp.MustCompile(`\b(TODO|FIXME|XXX)\b`)

func checkUnfinished(files []source) (wrong []string) {
	for _, f := range files {
		for _, group := range f.ast.Comments {
			for _, c := range group.List {
				if m := unfinished.FindString(c.Text); m != "" {
					wrong = append(wrong, fmt.Sprintf("%s: %s: do it, or open an issue", f.at(c), m))
				}
			}
		}
	}
	return wrong
}

var (
	formatPage = regexp.MustCompile(`docs/format/([a-z0-9-]+\.md)`)
	versioned  = regexp.MustCompile(`(?i)\bversions?\b|\bformat\W+\d`)
)

// checkFormats: every page about bytes says how versions of them are told apart, and every page that is mentioned is there.
func checkFormats(files []source) (wrong []string) {
	pages, err := filepath.Glob(filepath.Join(root, "docs/format/*.md"))
	if err != nil || len(pages) == 0 {
		return []string{fmt.Sprintf("docs/format has no pages (%v)", err)}
	}
	for _, page := range pages {
		text, err := os.ReadFile(page)
		if err != nil {
			wrong = append(wrong, err.Error())
		} else if !versioned.Match(text) {
			wrong = append(wrong, fmt.Sprintf("docs/format/%s: says nothing about versions: which byte or word tells them apart, and which one this page draws", filepath.Base(page)))
		}
	}
	for _, f := range files {
		for _, group := range f.ast.Comments {
			for _, m := range formatPage.FindAllStringSubmatch(group.Text(), -1) {
				if !slices.Contains(pages, filepath.Join(root, "docs/format", m[1])) {
					wrong = append(wrong, fmt.Sprintf("%s mentions docs/format/%s, which is not there", f.at(group), m[1]))
				}
			}
		}
	}
	return wrong
}

// checkImage: the Kafka that tests, scripts and docker-compose.yml start is the same one.
func checkImage([]source) (wrong []string) {
	image := regexp.MustCompile(`apache/kafka:\d[0-9.]*\d`)
	found := map[string][]string{}
	for _, name := range []string{"docker-compose.yml", "itest/kafka/up.sh", "itest/kafka/build-image.sh", "internal/kafkatest/kafkatest.go"} {
		text, err := os.ReadFile(filepath.Join(root, name))
		if err != nil {
			return []string{err.Error()}
		}
		all := image.FindAllString(string(text), -1)
		if len(all) == 0 {
			wrong = append(wrong, name+" names no Kafka image")
		}
		for _, i := range all {
			if !slices.Contains(found[i], name) {
				found[i] = append(found[i], name)
			}
		}
	}
	if len(found) > 1 {
		wrong = append(wrong, fmt.Sprintf("the default Kafka image differs: %v", found))
	}
	return wrong
}
