package itest

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"flag"
	"fmt"
	"hash/crc32"
	"io"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kfake"
)

var rewrite = flag.Bool("rewrite", false, "write testdata/refusals.txt anew, from what the application says")

// refusal is a start that must be refused: what is wrong is arranged by arrange, which may return arguments of its own.
type refusal struct {
	name    string
	exit    int
	args    []string
	arrange func(f *fleet) []string
}

// refusals is everything wrong a person may give to millrace. What it answers is in testdata/refusals.txt.
var refusals = []refusal{
	{name: "no application id", exit: 2, args: []string{"-app", ""}},
	{name: "an illegal application id", exit: 2, args: []string{"-app", "orders/eu"}},
	{name: "a long application id", exit: 2, args: []string{"-app", strings.Repeat("x", 101)}},
	{name: "no brokers", exit: 2, args: []string{"-brokers", ""}},
	{name: "an empty broker", exit: 2, args: []string{"-brokers", "localhost:9092,"}},
	{name: "an instance name with a colon", exit: 2, args: []string{"-instance", "a:1"}},
	{name: "no workers", exit: 2, args: []string{"-workers", "-1"}},
	{name: "no state directory", exit: 2, args: []string{"-state", ""}},
	{name: "a state directory for memory stores", exit: 2, args: []string{"-memory"}},
	{name: "a commit interval of half the transaction timeout", exit: 2, args: []string{"-commit", "5s", "-transaction", "10s"}},
	{name: "a negative commit interval", exit: 2, args: []string{"-commit", "-100ms"}},
	{name: "a heartbeat as long as the session", exit: 2, args: []string{"-heartbeat", "6s"}},
	{name: "too little memory", exit: 2, args: []string{"-memory-limit", "4096"}},
	{name: "a replication factor below one", exit: 2, args: []string{"-replication", "-1"}},
	{name: "several at once", exit: 2, args: []string{"-app", "", "-brokers", "", "-state", "", "-commit", "1h", "-heartbeat", "1h"}},
	{name: "a store that is attached to another node", exit: 2, args: []string{"-workload", "unattached"}},
	{name: "a store that nobody declared", exit: 2, args: []string{"-workload", "undeclared"}},
	{name: "a session longer than the broker allows", exit: 2, args: []string{"-session", "2h"}},
	{name: "a transaction timeout longer than the broker allows", exit: 2, args: []string{"-transaction", "20m"}},
	{name: "more replicas than brokers", exit: 2, args: []string{"-replication", "3"}},

	{name: "nobody listens", exit: 4, arrange: func(f *fleet) []string {
		return []string{"-brokers", silent(f.t)}
	}},
	{name: "a host that does not exist", exit: 4, args: []string{"-brokers", "no-such-host.invalid:9092"}},
	{name: "somebody else listens", exit: 4, arrange: func(f *fleet) []string {
		l := listen(f.t)
		go serve(l, func(c net.Conn) { _, _ = io.WriteString(c, "HTTP/1.1 400 Bad Request\r\nConnection: close\r\n\r\n") })
		return []string{"-brokers", l.Addr().String()}
	}},
	{name: "TLS spoken to a plaintext port", exit: 4, args: []string{"-tls"}},
	{name: "plaintext spoken to a TLS port", exit: 4, arrange: func(f *fleet) []string {
		fake, err := kfake.NewCluster(kfake.NumBrokers(1), kfake.TLS(&tls.Config{Certificates: []tls.Certificate{certificate(f.t)}}))
		if err != nil {
			f.t.Fatal(err)
		}
		f.t.Cleanup(fake.Close)
		return []string{"-brokers", fake.ListenAddrs()[0]}
	}},
	{name: "a missing topic", exit: 4, arrange: func(f *fleet) []string {
		f.remove("in")
		return nil
	}},
	{name: "missing dead letter and output topics", exit: 4, args: []string{"-policy", "dead-letter"}, arrange: func(f *fleet) []string {
		f.remove("audit")
		return nil
	}},
	{name: "a stream and a table that are not co-partitioned", exit: 4, args: []string{"-workload", "join"}, arrange: func(f *fleet) []string {
		f.create("names", 3, nil)
		return nil
	}},

	{name: "an input topic with more partitions than before", exit: 3, arrange: func(f *fleet) []string {
		f.lived()
		f.grow(f.topic("in"), 4)
		return nil
	}},
	{name: "an input topic that was created again", exit: 3, arrange: func(f *fleet) []string {
		f.lived()
		f.remove("in")
		f.create("in", f.parts, nil)
		return nil
	}},
	{name: "a changelog that was created again", exit: 3, arrange: func(f *fleet) []string {
		f.lived()
		f.delete(f.changelog("counts"))
		return nil
	}},
	{name: "a changelog with more partitions than before", exit: 3, arrange: func(f *fleet) []string {
		f.lived()
		f.grow(f.changelog("counts"), 4)
		return nil
	}},
	{name: "a changelog that is not compacted any more", exit: 3, arrange: func(f *fleet) []string {
		f.lived()
		f.alter(f.changelog("counts"), "cleanup.policy", "delete")
		return nil
	}},
	{name: "somebody else's topic under the name of a changelog", exit: 3, arrange: func(f *fleet) []string {
		resp, err := f.cluster.Admin().CreateTopic(f.ctx(), int32(f.parts), 1, map[string]*string{"cleanup.policy": kadm.StringPtr("compact")}, f.changelog("counts"))
		if err != nil || resp.Err != nil {
			f.t.Fatal(err, resp.Err)
		}
		newFeeder(f.t, f.addrs, f.changelog("counts"), 10, 1).feed(10)
		return nil
	}},
	{name: "a state directory of another application", exit: 3, arrange: func(f *fleet) []string {
		f.lived()
		f.must(os.Rename(filepath.Join(f.state("a"), f.app), filepath.Join(f.state("a"), "another")))
		return []string{"-app", "another"}
	}},
	{name: "a state directory of another cluster", exit: 3, arrange: func(f *fleet) []string {
		f.lived()
		fake, err := kfake.NewCluster(kfake.NumBrokers(1), kfake.ClusterID("another"))
		if err != nil {
			f.t.Fatal(err)
		}
		f.t.Cleanup(fake.Close)
		other := newFleet(f.t, fake.ListenAddrs(), "other", f.parts)
		for _, topic := range []string{"in", "audit", "out"} {
			other.app, other.parts = f.app, f.parts
			other.create(topic, f.parts, nil)
		}
		return []string{"-brokers", strings.Join(other.addrs, ",")}
	}},
	{name: "a state directory of a newer version", exit: 3, arrange: func(f *fleet) []string {
		f.lived()
		f.manifest(func(text []byte) []byte {
			var file struct {
				Checksum string          `json:"checksum"`
				Manifest json.RawMessage `json:"manifest"`
			}
			f.must(json.Unmarshal(text, &file))
			var compact bytes.Buffer
			f.must(json.Compact(&compact, file.Manifest))
			newer := bytes.Replace(compact.Bytes(), []byte(`"format":1,`), []byte(`"format":9,`), 1)
			sum := crc32.Checksum(newer, crc32.MakeTable(crc32.Castagnoli))
			return fmt.Appendf(nil, `{"checksum":"crc32c:%08x","manifest":%s}`, sum, newer)
		})
		return nil
	}},
	{name: "a state directory whose manifest is damaged", exit: 3, arrange: func(f *fleet) []string {
		f.lived()
		f.manifest(func(text []byte) []byte { return bytes.Replace(text, []byte("counts"), []byte("counta"), 1) })
		return nil
	}},
	{name: "a state directory that anybody may write", exit: 3, arrange: func(f *fleet) []string {
		f.must(os.MkdirAll(f.state("a"), 0o700))
		f.must(os.Chmod(f.state("a"), 0o777))
		return nil
	}},
	{name: "a state directory in use", exit: 3, arrange: func(f *fleet) []string {
		f.start("a").running()
		return nil
	}},
	{name: "a state directory below a file", exit: 3, arrange: func(f *fleet) []string {
		f.must(os.WriteFile(f.path("file"), nil, 0o600))
		return []string{"-state", filepath.Join(f.path("file"), "state")}
	}},
	{name: "offsets moved back by a tool", exit: 3, arrange: func(f *fleet) []string {
		f.lived()
		f.move(1)
		return nil
	}},
	{name: "offsets moved forward by a tool", exit: 3, arrange: func(f *fleet) []string {
		f.lived()
		newFeeder(f.t, f.addrs, f.topic("in"), 10, 2).feed(1000)
		f.move(400)
		return nil
	}},
	{name: "an input whose next records are gone", exit: 3, arrange: func(f *fleet) []string {
		f.lived()
		newFeeder(f.t, f.addrs, f.topic("in"), 10, 2).feed(1000)
		gone := kadm.Offsets{}
		for p := range f.parts {
			gone.Add(kadm.Offset{Topic: f.topic("in"), Partition: int32(p), At: 400})
		}
		_, err := f.cluster.Admin().DeleteRecords(f.ctx(), gone)
		f.must(err)
		return nil
	}},
}

// TestRefusals starts the application with everything that can be wrong with its configuration, its cluster and its state. It
// must end by itself, soon, with the right exit code and a text that names the thing, what is wrong and what to do; without a
// panic or a stack trace.
func TestRefusals(t *testing.T) {
	const file = "testdata/refusals.txt"
	want := golden(t, file)
	if _, err := theBinary(); err != nil { // before anything is timed
		t.Fatal(err)
	}
	said := make([]string, len(refusals))
	t.Run("of", func(t *testing.T) {
		for n, r := range refusals {
			t.Run(r.name, func(t *testing.T) {
				t.Parallel()
				said[n] = refused(t, r)
				if !*rewrite && said[n] != want[r.name] {
					t.Errorf("it says\n%s\nwant\n%s\n(go test ./itest -run TestRefusals -rewrite writes it anew)", said[n], want[r.name])
				}
			})
		}
	})
	if *rewrite && !t.Failed() {
		var b strings.Builder
		for n, r := range refusals {
			fmt.Fprintf(&b, "## %s\n%s\n", r.name, said[n])
		}
		if err := os.WriteFile(file, []byte(b.String()), 0o644); err != nil {
			t.Fatal(err)
		}
		return
	}
	if len(want) != len(refusals) {
		t.Errorf("%s has %d texts for %d refusals", file, len(want), len(refusals))
	}
}

func refused(t *testing.T, r refusal) string {
	f := newFleet(t, embedded(t), "refused", 1, "in", "audit", "out")
	var extra []string
	if r.arrange != nil {
		extra = r.arrange(f)
	}
	args := append([]string{"-instance", "a", "-state", f.state("a")}, f.args...)
	args = append(append(args, r.args...), extra...)
	began := time.Now()
	i := launch(t, r.name, f.path("refused.log"), nil, args...)
	code := i.exit()
	if took := time.Since(began); took > 30*time.Second {
		t.Errorf("it took %v", took)
	}
	if code != r.exit {
		t.Errorf("exit code %d, want %d\n%s", code, r.exit, i.tail())
	}
	log, err := os.ReadFile(i.log)
	if err != nil {
		t.Fatal(err)
	}
	for _, word := range []string{"panic:", "goroutine "} {
		if strings.Contains(string(log), word) {
			t.Errorf("its log has %q:\n%s", word, log)
		}
	}
	events := i.history()
	end := events[len(events)-1]
	if end.Event != "exit" || end.Fault == "" {
		t.Errorf("it ended with %+v, not with a typed error", end)
	}
	addrs := args[len(args)-1]
	for n := range args[:len(args)-1] {
		if args[n] == "-brokers" {
			addrs = args[n+1]
		}
	}
	text := end.Err
	for _, s := range [][2]string{{f.dir, "DIR"}, {f.app, "APP"}, {addrs, "BROKERS"}, {strings.Join(f.addrs, ","), "BROKERS"}} {
		if s[0] != "" {
			text = strings.ReplaceAll(text, s[0], s[1])
		}
	}
	for _, s := range changing {
		text = s.pattern.ReplaceAllString(text, s.name)
	}
	return fmt.Sprintf("exit %d\n%s\n", code, text)
}

// changing is what differs from run to run.
var changing = []struct {
	pattern *regexp.Regexp
	name    string
}{
	{regexp.MustCompile(`[0-9a-f]{32}|[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}`), "ID"},
	{regexp.MustCompile(`\d{4}-\d\d-\d\dT[0-9:.]+(Z|[+-]\d\d:\d\d)`), "TIME"},
	{regexp.MustCompile(`(pid|process) \d+`), "$1 PID"},
	{regexp.MustCompile(`host "?` + regexp.QuoteMeta(hostname()) + `"?`), "host HOST"},
	{regexp.MustCompile(`127\.0\.0\.1:\d+`), "ADDRESS"},
	{regexp.MustCompile(`lookup (\S+) on \S+:`), "lookup $1:"},
}

func hostname() string {
	name, err := os.Hostname()
	if err != nil {
		return "localhost"
	}
	return name
}

// golden reads the texts by their headings.
func golden(t *testing.T, file string) map[string]string {
	t.Helper()
	text, err := os.ReadFile(file)
	if err != nil && !*rewrite {
		t.Fatal(err)
	}
	texts := map[string]string{}
	for _, part := range strings.Split("\n"+string(text), "\n## ")[1:] {
		name, body, _ := strings.Cut(part, "\n")
		texts[name] = strings.TrimRight(body, "\n") + "\n"
	}
	return texts
}

// lived runs the application for a while and stops it, so that there are offsets, state and topics.
func (f *fleet) lived() {
	f.t.Helper()
	feed := newFeeder(f.t, f.addrs, f.topic("in"), 10, 1)
	feed.feed(200)
	f.start("a")
	f.reach("in", feed.total())
	f.stopAll()
}

// manifest changes the manifest of every task of instance a.
func (f *fleet) manifest(change func([]byte) []byte) {
	f.t.Helper()
	found, err := filepath.Glob(filepath.Join(f.state("a"), f.app, "*", "*", "manifest.json"))
	if err != nil || len(found) == 0 {
		f.t.Fatalf("no manifest in %s: %v", f.state("a"), err)
	}
	for _, file := range found {
		text, err := os.ReadFile(file)
		f.must(err)
		changed := change(text)
		if bytes.Equal(changed, text) {
			f.t.Fatalf("nothing to change in %s", text)
		}
		f.must(os.WriteFile(file, changed, 0o600))
	}
}

func (f *fleet) must(err error) {
	f.t.Helper()
	if err != nil {
		f.t.Fatal(err)
	}
}

func (f *fleet) remove(name string) { f.t.Helper(); f.delete(f.topic(name)) }

func (f *fleet) delete(topic string) {
	f.t.Helper()
	resp, err := f.cluster.Admin().DeleteTopic(f.ctx(), topic)
	f.must(err)
	f.must(resp.Err)
}

func (f *fleet) grow(topic string, parts int) {
	f.t.Helper()
	resp, err := f.cluster.Admin().UpdatePartitions(f.ctx(), parts, topic)
	f.must(err)
	f.must(resp.Error())
}

func (f *fleet) alter(topic, key, value string) {
	f.t.Helper()
	resp, err := f.cluster.Admin().AlterTopicConfigs(f.ctx(), []kadm.AlterConfig{{Name: key, Value: &value}}, topic)
	f.must(err)
	f.must(resp[0].Err)
}

// move commits an offset for every input partition, as a tool would.
func (f *fleet) move(to int64) {
	f.t.Helper()
	offsets := kadm.Offsets{}
	for p := range f.parts {
		offsets.Add(kadm.Offset{Topic: f.topic("in"), Partition: int32(p), At: to, LeaderEpoch: -1})
	}
	f.must(f.cluster.Admin().CommitAllOffsets(f.ctx(), f.app, offsets))
}

func listen(t *testing.T) net.Listener {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = l.Close() })
	return l
}

// silent is an address nobody listens on, and nobody can while the test runs: its port is taken by a socket that never listens.
func silent(t *testing.T) string {
	t.Helper()
	fd, err := syscall.Socket(syscall.AF_INET, syscall.SOCK_STREAM, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = syscall.Close(fd) })
	if err := syscall.Bind(fd, &syscall.SockaddrInet4{Addr: [4]byte{127, 0, 0, 1}}); err != nil {
		t.Fatal(err)
	}
	addr, err := syscall.Getsockname(fd)
	if err != nil {
		t.Fatal(err)
	}
	return fmt.Sprintf("127.0.0.1:%d", addr.(*syscall.SockaddrInet4).Port)
}

// serve answers every connection with f, once something was read from it, until l is closed.
func serve(l net.Listener, f func(net.Conn)) {
	for {
		c, err := l.Accept()
		if err != nil {
			return
		}
		go func() {
			defer c.Close()
			if _, err := c.Read(make([]byte, 1)); err == nil {
				f(c)
			}
		}()
	}
}

// certificate is one for this machine, signed by itself.
func certificate(t *testing.T) tls.Certificate {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	c := &x509.Certificate{SerialNumber: big.NewInt(1), NotAfter: time.Now().Add(time.Hour), IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}}
	der, err := x509.CreateCertificate(rand.Reader, c, c, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}
}
