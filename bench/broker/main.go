// Broker is the embedded broker in a process of its own, so that a benchmark on it can tell the broker's work from the
// application's. It prints its address and ends when its standard input does.
package main

import (
	"fmt"
	"io"
	"os"
	"strings"
	"time"

	"github.com/millrace-io/millrace/devkafka"
)

func main() {
	b, err := devkafka.Start(devkafka.Options{MinSessionTimeout: time.Second})
	if err != nil {
		fmt.Fprintln(os.Stderr, "broker:", err)
		os.Exit(1)
	}
	fmt.Println(strings.Join(b.Addrs(), ","))
	_, _ = io.Copy(io.Discard, os.Stdin)
	b.Close()
}
