package main

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// TestMavenBuildsOnce has a repository, a Java and a Maven that are scripts.
func TestMavenBuildsOnce(t *testing.T) {
	root := t.TempDir()
	write := func(path, text string, mode os.FileMode) string {
		path = filepath.Join(root, path)
		if err := errors.Join(os.MkdirAll(filepath.Dir(path), 0o755), os.WriteFile(path, []byte(text), mode)); err != nil {
			t.Fatal(err)
		}
		return path
	}
	write("bench/peers/pom.xml", "<project/>", 0o644)
	write("bench/peers/contract/A.java", "class A {}", 0o644)
	source := write("bench/peers/m/B.java", "class B {}", 0o644)
	java := write("jdk/bin/java", "#!/bin/sh\necho 'openjdk version \"17.0.1\"' >&2\n", 0o755)
	calls := filepath.Join(root, "calls")
	mvn := func(then string) {
		write("maven/bin/mvn", fmt.Sprintf("#!/bin/sh\necho \"$@\" >>%s\n%s\n", calls, then), 0o755)
	}
	t.Setenv("JAVA_HOME", filepath.Join(root, "jdk"))
	t.Setenv("MAVEN_HOME", filepath.Join(root, "maven"))
	t.Chdir(filepath.Join(root, "bench"))
	called := func() []string {
		text, err := os.ReadFile(calls)
		if err != nil && !os.IsNotExist(err) {
			t.Fatal(err)
		}
		return strings.FieldsFunc(string(text), func(r rune) bool { return r == '\n' })
	}
	prepare := func() (*jvmApp, error) {
		a := &jvmApp{module: "m", title: "M"}
		return a, a.prepare(t.Context(), t.TempDir())
	}

	mvn("echo '[ERROR] it cannot be'; exit 1")
	if _, err := prepare(); err == nil || !strings.Contains(err.Error(), "it cannot be") {
		t.Fatalf("a failed build: %v", err)
	}
	mvn("exit 0")
	for range 2 { // a failed build is not remembered, one that went well is
		a, err := prepare()
		if err != nil {
			t.Fatal(err)
		}
		if path, _ := a.command(job{}); path != java {
			t.Errorf("it starts %s", path)
		}
	}
	if got := called(); len(got) != 2 || !strings.Contains(got[1], "-pl m -am compile dependency:copy-dependencies") || !strings.Contains(got[1], "-Dpeers.build="+filepath.Join(root, ".cache", "peers")) {
		t.Errorf("Maven was called with %q", got)
	}
	if err := os.WriteFile(source, []byte("class B { int more; }"), 0o644); err != nil {
		t.Fatal(err)
	}
	mvn("exit 1")
	if _, err := prepare(); err == nil {
		t.Error("a changed source was not built")
	}
	if err := os.WriteFile(source, []byte("class B {}"), 0o644); err != nil {
		t.Fatal(err)
	}
	if _, err := prepare(); err == nil { // what was built before has been removed by then
		t.Error("the remains of a failed build are taken for a whole one")
	}
}
