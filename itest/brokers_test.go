package itest

import (
	"testing"

	"github.com/millrace-io/millrace/internal/kafkatest"
)

func embedded(t *testing.T) []string { return kafkatest.Embedded(t).Addrs() }

func realKafka(t *testing.T) []string { return kafkatest.Real(t).Addrs() }

// on runs test on the embedded broker and on real Kafka.
func on(t *testing.T, test func(t *testing.T, addrs []string)) {
	t.Run("embedded", func(t *testing.T) { test(t, embedded(t)) })
	t.Run("kafka", func(t *testing.T) { test(t, realKafka(t)) })
}
