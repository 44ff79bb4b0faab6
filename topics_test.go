package millrace_test

import (
	"context"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/millrace-io/millrace"
)

// TestTopicsMadeJustNow: a broker may have confirmed a topic that its metadata does not show yet.
func TestTopicsMadeJustNow(t *testing.T) {
	c, err := kfake.NewCluster(kfake.NumBrokers(1), kfake.SeedTopics(2, "words"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Close)
	addrs := c.ListenAddrs()
	adm := kadm.NewClient(client(t, addrs))
	made := make(chan struct{})
	asked := 0 // by the one goroutine of the fake
	c.ControlKey(int16(kmsg.Metadata), func(req kmsg.Request) (kmsg.Response, error, bool) {
		c.KeepControl()
		for _, topic := range req.(*kmsg.MetadataRequest).Topics {
			if topic.Topic == nil || *topic.Topic != "totals" {
				continue
			}
			if asked++; asked == 3 {
				c.SleepControl(func() { _, _ = adm.CreateTopic(context.Background(), 2, 1, nil, "totals") })
				close(made)
			}
		}
		return nil, nil, false
	})
	produceWords(t, addrs, 100, 10)
	instance(t, addrs, millrace.MemoryStores(), millrace.Logger(quiet))
	select {
	case <-made:
	case <-time.After(20 * time.Second):
		t.Fatal("the missing topic was not looked for again")
	}
	readTotals(t, addrs, 100)
}
