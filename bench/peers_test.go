package main

import (
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// TestPeersFitTheFigures: a row that no figure has, or a mark beside a peer that there is not, would be missed silently.
func TestPeersFitTheFigures(t *testing.T) {
	seen := map[string]bool{}
	for _, p := range peers() {
		if seen[p.name] || p.title == "" || !p.peer || p.can == nil || p.prepare == nil || p.command == nil {
			t.Errorf("%+v", p)
		}
		seen[p.name] = true
		if p.figures == nil {
			t.Errorf("%s takes part everywhere", p.name)
		}
		for _, f := range p.figures {
			if !slices.Contains(figureNames(), f) {
				t.Errorf("%s takes part in %q, which is no figure", p.name, f)
			}
		}
	}
	for _, name := range []string{kstreamsSame, kstreamsDefault, flinkSecond, flinkTenth} {
		if !seen[name] {
			t.Errorf("a mark is about %q, which is no peer", name)
		}
	}
}

// TestPeersDoTheWork reads the apps: each workload of a figure in which a peer takes part must be in its source.
func TestPeersDoTheWork(t *testing.T) {
	read := func(path string) string {
		text, err := os.ReadFile(filepath.FromSlash(path))
		if err != nil {
			t.Fatal(err)
		}
		return string(text)
	}
	jvm := "/src/main/java/io/millrace/bench/"
	sources := map[string]string{
		"ks":        read("peers/kstreams" + jvm + "kstreams/Workloads.java"),
		"flink":     read("peers/flink" + jvm + "flink/Workloads.java"),
		"watermill": read("peers/watermill/main.go"),
	}
	checked := 0
	for _, p := range peers() {
		family, _, _ := strings.Cut(p.name, "-")
		for _, f := range figures() {
			if !slices.Contains(p.figures, f.name) || f.trials == nil {
				continue
			}
			for _, one := range f.trials(config{scale: 1}) {
				if p.can(one.wish()) != "" {
					continue
				}
				checked++
				if !strings.Contains(sources[family], `"`+one.workload+`"`) {
					t.Errorf("%s takes part in %s and does not know %q", p.name, f.name, one.workload)
				}
			}
		}
	}
	if checked < 10 {
		t.Errorf("only %d pairs of a peer and a workload", checked)
	}
}

func TestCommandOfAnAppOnTheJVM(t *testing.T) {
	a := &jvmApp{module: "kstreams", java: "/jdk/bin/java", root: "/src", opens: []string{"java.lang"}}
	path, args := a.command(job{state: "/scratch/state"}, "cache=off")
	line := path + " " + strings.Join(args, " ")
	built := "/src/.cache/peers/"
	for _, want := range []string{
		"/jdk/bin/java -Xms", "-Djava.io.tmpdir=/scratch/state", "--add-opens=java.base/java.lang=ALL-UNNAMED",
		"-cp " + built + "contract/classes:" + built + "kstreams/classes:" + built + "kstreams/lib/* io.millrace.bench.kstreams.Main cache=off",
	} {
		if !strings.Contains(line, want) {
			t.Errorf("%q is not in: %s", want, line)
		}
	}
}

func TestRowsDifferInTheirArguments(t *testing.T) {
	want := map[string]string{
		"ks-eos": "Main", "ks-eos-nocache": "cache=off", "ks-eos-2t": "num.stream.threads=2", "ks-alo": "processing.guarantee=at_least_once",
		"flink-eos-100": "execution.checkpointing.interval=100ms", "flink-eos-1000": "execution.checkpointing.interval=1s",
	}
	for _, p := range peers() {
		if _, args := p.command("", job{state: "s"}); want[p.name] != "" && !strings.HasSuffix(args[len(args)-1], want[p.name]) {
			t.Errorf("%s: %q", p.name, args)
		}
		delete(want, p.name)
	}
	if len(want) > 0 {
		t.Errorf("missing: %v", want)
	}
}

func TestJavaIsLookedFor(t *testing.T) {
	home := t.TempDir()
	t.Setenv("PATH", t.TempDir())
	env := func(pairs ...string) func(string) string {
		return func(name string) string {
			if i := slices.Index(pairs, name); i >= 0 {
				return pairs[i+1]
			}
			return ""
		}
	}
	if _, err := findJava(env()); err == nil || !strings.Contains(err.Error(), "no java on PATH") || !strings.Contains(err.Error(), "JAVA_HOME") {
		t.Errorf("%v", err)
	}
	if _, err := findJava(env("JAVA_HOME", home)); err == nil || !strings.Contains(err.Error(), "no bin/java in JAVA_HOME") {
		t.Errorf("%v", err)
	}
	if _, err := findMaven(env()); err == nil || !strings.Contains(err.Error(), "no mvn on PATH") {
		t.Errorf("%v", err)
	}
	java := filepath.Join(home, "bin", "java")
	if err := errors.Join(os.Mkdir(filepath.Dir(java), 0o755), os.WriteFile(java, []byte("#!/bin/sh\n"), 0o755)); err != nil {
		t.Fatal(err)
	}
	if got, err := findJava(env("JAVA_HOME", home)); err != nil || got != java {
		t.Errorf("%q %v", got, err)
	}
	t.Setenv("PATH", filepath.Dir(java))
	if got, err := findJava(env()); err != nil || got != java {
		t.Errorf("%q %v", got, err)
	}
}

// TestWithoutJavaAPeerIsListed: what is missing is said in one line, and asked once.
func TestWithoutJavaAPeerIsListed(t *testing.T) {
	t.Setenv("JAVA_HOME", t.TempDir())
	a := &jvmApp{module: "kstreams", title: "Kafka Streams"}
	err := a.prepare(t.Context(), t.TempDir())
	if why := (cannot{}); !errors.As(err, &why) || why.remedy == "" || strings.Contains(err.Error(), "\n") {
		t.Fatalf("%v", err)
	}
	t.Setenv("JAVA_HOME", "")
	if again := a.prepare(t.Context(), t.TempDir()); again != err {
		t.Errorf("%v, then %v", err, again)
	}
}

func TestOneReasonIsToldOnce(t *testing.T) {
	b := &bench{}
	b.miss("A", "no java; install one")
	b.miss("B, fast", "no java; install one")
	b.miss("C", "no such module; nothing can be done")
	if want := []string{"A; B, fast: no java; install one", "C: no such module; nothing can be done"}; !slices.Equal(b.missing, want) {
		t.Errorf("%q", b.missing)
	}
}

func TestOldJavaIsRefused(t *testing.T) {
	for _, c := range []struct {
		says string
		ok   bool
	}{
		{`openjdk version "17.0.15" 2025-04-15`, true},
		{"openjdk version \"21\" 2023-09-19\nOpenJDK Runtime", true},
		{`java version "1.8.0_292"`, false},
		{`openjdk version "11.0.2" 2019-01-15`, false},
		{`no such thing`, false},
	} {
		if err := checkJava(c.says); (err == nil) != c.ok {
			t.Errorf("%s: %v", c.says, err)
		}
	}
}

// TestReasonsHaveNoAddresses: they go into a report that others read.
func TestReasonsHaveNoAddresses(t *testing.T) {
	failed := errors.New("exit status 1")
	for _, c := range []struct{ got, want string }{
		{goError("go: module example.com/x: reading https://proxy.example/x/@v/list: 403 Forbidden\n\tserver response: no", failed), "403 Forbidden"},
		{goError("go: cannot\nit says https://proxy.example/x is away", failed), "it says ... is away"},
		{goError("", failed), "exit status 1"},
		{mavenError("[\x1b[1;31mERROR\x1b[m] Failed: could not find x in https://repo.example/maven2 now\n[ERROR] more", failed), "Failed: could not find x in ... now"},
		{mavenError("[ERROR] \n[ERROR] the second line\n", failed), "the second line"},
		{mavenError("nothing", failed), "exit status 1"},
	} {
		if c.got != c.want {
			t.Errorf("%q instead of %q", c.got, c.want)
		}
	}
	if long := scrub(strings.Repeat("é", 500)); len(long) > 250 || strings.ContainsRune(long, '\uFFFD') {
		t.Errorf("%q", long)
	}
}

func TestAChangedSourceIsBuiltAgain(t *testing.T) {
	a := &jvmApp{module: "m", root: t.TempDir()}
	write := func(path, text string) {
		path = filepath.Join(a.root, "bench", "peers", path)
		if err := errors.Join(os.MkdirAll(filepath.Dir(path), 0o755), os.WriteFile(path, []byte(text), 0o644)); err != nil {
			t.Fatal(err)
		}
	}
	seen := map[string]string{}
	for _, change := range []struct{ path, text, java string }{
		{"pom.xml", "<project/>", "17"}, {"contract/A.java", "class A {}", "17"}, {"m/B.java", "class B {}", "17"},
		{"m/B.java", "class B { int x; }", "17"}, {"contract/A.java", "class A { }", "17"}, {"pom.xml", "<project> </project>", "17"}, {"m/C.java", "", "17"}, {"m/C.java", "", "21"},
	} {
		write("contract/Z.java", "")
		write("m/Z.java", "")
		write(change.path, change.text)
		write("other/X.java", change.text) // of another module: it does not matter
		if _, err := os.Stat(filepath.Join(a.root, "bench/peers/pom.xml")); err != nil {
			t.Fatal(err)
		}
		key, err := a.key(change.java)
		if err != nil {
			t.Fatal(err)
		}
		if before, again := seen[key]; again {
			t.Errorf("%v has the key of %s", change, before)
		}
		seen[key] = change.path
		write("other/X.java", "again")
		if same, err := a.key(change.java); err != nil || same != key {
			t.Errorf("the key changes without a reason: %v", err)
		}
	}
}
