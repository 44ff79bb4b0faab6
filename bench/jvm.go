package main

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"time"
)

// jvmApp is an app on the JVM: a Maven module in bench/peers. Several programs share one, with other arguments.
type jvmApp struct {
	module string // directory, and last part of the package of the class Main
	title  string
	opens  []string // packages of java.base that must be open to it

	java    string // after prepare
	root    string // of the repository, after prepare
	asked   bool
	refused error // what prepare has found out
}

// minJava is what the systems ask for.
const minJava = 17

const mavenTimeout = 10 * time.Minute

// prepare builds the module, unless it has not changed since it was built. It is asked once for each program; a build that failed
// is not tried again.
func (a *jvmApp) prepare(ctx context.Context, _ string) error {
	if !a.asked {
		a.asked = true
		a.refused = a.build(ctx)
	}
	return a.refused
}

func (a *jvmApp) build(ctx context.Context) (err error) {
	if a.java, err = findJava(os.Getenv); err != nil {
		return err
	}
	version, err := javaVersion(ctx, a.java)
	if err != nil {
		return err
	}
	if a.root, err = repository(); err != nil {
		return err
	}
	stamp := filepath.Join(a.target(), a.module+".built")
	key, err := a.key(version)
	if err != nil {
		return err
	}
	if before, err := os.ReadFile(stamp); err == nil && string(before) == key {
		say("%s is built already", a.title)
		return nil
	}
	mvn, err := findMaven(os.Getenv)
	if err != nil {
		return err
	}
	if err := errors.Join(os.MkdirAll(a.target(), 0o755), os.RemoveAll(stamp), os.RemoveAll(filepath.Join(a.target(), a.module))); err != nil {
		return err
	}
	if err := a.maven(ctx, mvn); err != nil {
		return err
	}
	return os.WriteFile(stamp, []byte(key), 0o644)
}

func (a *jvmApp) target() string { return filepath.Join(a.root, ".cache", "peers") }

func (a *jvmApp) maven(ctx context.Context, mvn string) error {
	ctx, cancel := context.WithTimeout(ctx, mavenTimeout)
	defer cancel()
	say("building %s with Maven; the first time this downloads up to 200 MB", a.title)
	cmd := exec.CommandContext(ctx, mvn, "-B", "-ntp", "-q", "-f", filepath.Join(a.root, "bench", "peers", "pom.xml"),
		"-Dpeers.build="+a.target(), "-pl", a.module, "-am", "compile", "dependency:copy-dependencies")
	out := &tail{}
	cmd.Stdout, cmd.Stderr = out, out
	cmd.WaitDelay = 5 * time.Second
	began, ended := time.Now(), make(chan error, 1)
	if err := cmd.Start(); err != nil {
		return err
	}
	go func() { ended <- cmd.Wait() }()
	tick := time.NewTicker(10 * time.Second)
	defer tick.Stop()
	for {
		select {
		case err := <-ended:
			if err != nil {
				return cannot{"Maven could not build it: " + mavenError(out.String(), err), "see \"mvn -f bench/peers/pom.xml compile\""}
			}
			say("%s: built in %s", a.title, time.Since(began).Round(time.Second))
			return nil
		case <-tick.C:
			say("  Maven is busy with %s, %s by now", a.title, time.Since(began).Round(time.Second))
		}
	}
}

// key names what the build depends on: the sources, and the Java that compiles them.
func (a *jvmApp) key(version string) (string, error) {
	h := sha256.New()
	fmt.Fprintln(h, version)
	peers := filepath.Join(a.root, "bench", "peers")
	for _, top := range []string{"pom.xml", "contract", a.module} {
		err := filepath.WalkDir(filepath.Join(peers, top), func(path string, d fs.DirEntry, err error) error {
			if err != nil || d.IsDir() {
				return err
			}
			text, err := os.ReadFile(path)
			fmt.Fprintf(h, "%s %d\n%s", path, len(text), text)
			return err
		})
		if err != nil {
			return "", err
		}
	}
	return fmt.Sprintf("%x\n", h.Sum(nil)), nil
}

// command starts the app with a heap that is never the limit, and leaves nothing outside of the job's directory.
func (a *jvmApp) command(j job, args ...string) (path string, all []string) {
	target := a.target()
	all = []string{"-Xms512m", "-Xmx2g", "-XX:-UsePerfData", "-Djava.io.tmpdir=" + j.state, "-Dorg.slf4j.simpleLogger.defaultLogLevel=error"}
	for _, p := range a.opens {
		all = append(all, "--add-opens=java.base/"+p+"=ALL-UNNAMED")
	}
	classes := []string{filepath.Join(target, "contract", "classes"), filepath.Join(target, a.module, "classes"), filepath.Join(target, a.module, "lib", "*")}
	all = append(all, "-cp", strings.Join(classes, string(filepath.ListSeparator)), "io.millrace.bench."+a.module+".Main")
	return a.java, append(all, args...)
}

func findJava(env func(string) string) (string, error) {
	return find(env, "java", "JAVA_HOME", fmt.Sprintf("install a JDK (%d or newer), or set JAVA_HOME", minJava))
}

func findMaven(env func(string) string) (string, error) {
	return find(env, "mvn", "MAVEN_HOME", "install Maven, or set MAVEN_HOME")
}

// find looks in the home that the environment names, and else on the path.
func find(env func(string) string, program, home, remedy string) (string, error) {
	if dir := env(home); dir != "" {
		path := filepath.Join(dir, "bin", program)
		if _, err := exec.LookPath(path); err != nil {
			return "", cannot{fmt.Sprintf("there is no bin/%s in %s", program, home), remedy}
		}
		return path, nil
	}
	path, err := exec.LookPath(program)
	if err != nil {
		return "", cannot{fmt.Sprintf("there is no %s on PATH, and %s is not set", program, home), remedy}
	}
	return path, nil
}

var javaVersionLine = regexp.MustCompile(`version "(?:1\.)?(\d+)[^"]*"`)

func javaVersion(ctx context.Context, java string) (string, error) {
	out, err := exec.CommandContext(ctx, java, "-version").CombinedOutput()
	if err != nil {
		return "", cannot{"java does not start: " + firstLine(err), "install another"}
	}
	return string(out), checkJava(string(out))
}

func checkJava(version string) error {
	m := javaVersionLine.FindStringSubmatch(version)
	if m == nil {
		return cannot{"java does not say which version it is", fmt.Sprintf("install a JDK (%d or newer)", minJava)}
	}
	if n, _ := strconv.Atoi(m[1]); n < minJava {
		return cannot{fmt.Sprintf("java is version %d", n), fmt.Sprintf("install a JDK (%d or newer), or set JAVA_HOME", minJava)}
	}
	return nil
}

// mavenError is the line of Maven's output that says what is wrong, without addresses.
func mavenError(out string, err error) string {
	for line := range strings.Lines(out) {
		if _, what, ok := strings.Cut(line, "ERROR"); ok {
			what = strings.TrimSpace(strings.Trim(what, "]\x1b[m0; "))
			if what = scrub(what); what != "" {
				return what
			}
		}
	}
	return scrub(err.Error())
}

var addresses = regexp.MustCompile(`https?://\S+`)

// scrub takes addresses out of a reason, which may go into a report, and makes it short.
func scrub(reason string) string {
	reason = addresses.ReplaceAllString(reason, "...")
	if len(reason) > 240 {
		reason = strings.ToValidUTF8(reason[:240], "") + "..."
	}
	return reason
}

// repository is the root of the sources, in or above the working directory.
func repository() (string, error) {
	dir, err := os.Getwd()
	if err != nil {
		return "", err
	}
	for {
		if _, err := os.Stat(filepath.Join(dir, "bench", "peers", "pom.xml")); err == nil {
			return dir, nil
		}
		up := filepath.Dir(dir)
		if up == dir {
			return "", cannot{"bench/peers is not here", "run the benchmark in the repository"}
		}
		dir = up
	}
}
