package runtime

import (
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"
)

// TestCallbackBeforeNewGroupReturns: kgo may call back before the client it belongs to has been returned.
func TestCallbackBeforeNewGroupReturns(t *testing.T) {
	g := &group{ready: make(chan struct{})}
	alive := make(chan bool)
	go func() { alive <- g.checkMember() }()
	select {
	case <-alive:
		t.Fatal("a callback went on without an ownership")
	case <-time.After(20 * time.Millisecond):
	}
	cl, err := kgo.NewClient(kgo.SeedBrokers("127.0.0.1:1"))
	if err != nil {
		t.Fatal(err)
	}
	defer cl.Close()
	g.cl, g.own = cl, newOwnership(cl.GroupMetadata)
	close(g.ready)
	if !<-alive {
		t.Error("the member is not the one it was")
	}
}
