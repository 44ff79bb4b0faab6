package changelog_test

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/millrace-io/millrace/changelog"
	"github.com/millrace-io/millrace/devkafka"
)

// A start must not fail because a broker could not answer one request: what may pass is asked again, what is meant is not.
func TestEndsAreAskedForAgain(t *testing.T) {
	for _, answer := range []*kerr.Error{kerr.NotLeaderForPartition, kerr.OffsetNotAvailable, kerr.UnknownServerError, kerr.TopicAuthorizationFailed} {
		c := embedded(t, devkafka.Options{})
		topic := c.topic(t, 1)
		fault := c.fake.Cluster().Fault(kfake.Fault{Keys: []kmsg.Key{kmsg.ListOffsets}, Topic: topic.Name, Err: answer})
		tp := changelog.TopicPartition{Topic: topic.Name, Partition: 0}
		ends, err := changelog.ListEnds(t.Context(), c.client(t), []changelog.TopicPartition{tp})
		switch {
		case fault.Hits() != 1:
			t.Errorf("%s was said %d times", answer.Message, fault.Hits())
		case answer == kerr.TopicAuthorizationFailed:
			if !errors.Is(err, answer) {
				t.Errorf("%s became %v", answer.Message, err)
			}
		case err != nil || ends[tp] != changelog.Ends{}:
			t.Errorf("%s: %+v, %v", answer.Message, ends, err)
		}
	}
}

// Tasks of one number in two subtopologies have their records in one partition: it is asked for once, and both learn of it.
func TestEndsOfAPartitionNamedTwice(t *testing.T) {
	c := embedded(t, devkafka.Options{})
	topic := c.topic(t, 2)
	one := changelog.TopicPartition{Topic: topic.Name, Partition: 0}
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	ends, err := changelog.ListEnds(ctx, c.client(t), []changelog.TopicPartition{one, one, {Topic: topic.Name, Partition: 1}})
	if err != nil || len(ends) != 2 {
		t.Errorf("%v, %v", ends, err)
	}
}
