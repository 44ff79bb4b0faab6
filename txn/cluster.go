package txn

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/millrace-io/millrace/internal/fault"
)

// wanted are the requests of KIP-890 part 2, at the least version that has it.
var wanted = []struct {
	key kmsg.Key
	min int16
}{
	{kmsg.Produce, 12},
	{kmsg.TxnOffsetCommit, 5},
	{kmsg.EndTxn, 5},
	{kmsg.InitProducerID, 3},
	{kmsg.OffsetFetch, 7},
	{kmsg.ListTransactions, 0},
}

// CheckCluster asks whether the cluster can run millrace's transactions, with this transaction timeout. The error is made of
// *fault.Error of kind Cluster or Config (codes "cluster/transaction-version", "cluster/api-version", "txn/timeout"), all at
// once; when the cluster cannot be asked it is what the client says. A limit we are not allowed to read is left to Begin.
func CheckCluster(ctx context.Context, cl *kgo.Client, timeout time.Duration) error {
	resp, err := kmsg.NewPtrApiVersionsRequest().RequestWith(ctx, cl)
	if err == nil {
		err = kerr.ErrorForCode(resp.ErrorCode)
	}
	if err != nil {
		return fmt.Errorf("ask the cluster for its versions: %w", err)
	}
	var level int16 // 0 where the cluster knows no such feature
	for _, f := range resp.FinalizedFeatures {
		if f.Name == "transaction.version" {
			level = f.MaxVersionLevel
		}
	}
	var errs []error
	if level < 2 {
		errs = append(errs, &fault.Error{
			Code: "cluster/transaction-version", Kind: fault.Cluster, Thing: "feature transaction.version",
			Value:  strconv.Itoa(int(level)),
			Reason: "exactly-once needs level 2 (KIP-890, Kafka 4.0 and later); below it a late request can land in another transaction",
			Remedy: "use brokers of Kafka 4.0 or later, and finalize it: kafka-features.sh upgrade --feature transaction.version=2",
		})
	}
	var old []string
	for _, w := range wanted {
		if maxVersion(resp, w.key) < w.min {
			old = append(old, fmt.Sprintf("%s v%d", w.key.Name(), w.min))
		}
	}
	if len(old) > 0 {
		errs = append(errs, &fault.Error{
			Code: "cluster/api-version", Kind: fault.Cluster, Thing: "the brokers", Value: "",
			Reason: "they do not speak " + strings.Join(old, ", "), Remedy: "use brokers of Kafka 4.0 or later",
		})
	}
	if limit, ok := maxTimeout(ctx, cl); ok && timeout > limit {
		errs = append(errs, timeoutError(timeout, limit, nil))
	}
	return errors.Join(errs...)
}

func maxVersion(resp *kmsg.ApiVersionsResponse, key kmsg.Key) int16 {
	for _, k := range resp.ApiKeys {
		if k.ApiKey == key.Int16() {
			return k.MaxVersion
		}
	}
	return -1
}

// maxTimeout reads the broker's transaction.max.timeout.ms, if it lets us.
func maxTimeout(ctx context.Context, cl *kgo.Client) (time.Duration, bool) {
	ctx, cancel := context.WithTimeout(ctx, settleBound)
	defer cancel()
	brokers := kmsg.NewPtrMetadataRequest()
	brokers.Topics = []kmsg.MetadataRequestTopic{} // none; nil would be all
	meta, err := brokers.RequestWith(ctx, cl)
	if err != nil || len(meta.Brokers) == 0 {
		return 0, false
	}
	const name = "transaction.max.timeout.ms"
	req := kmsg.NewPtrDescribeConfigsRequest()
	r := kmsg.NewDescribeConfigsRequestResource()
	r.ResourceType = kmsg.ConfigResourceTypeBroker
	r.ResourceName = strconv.Itoa(int(meta.Brokers[0].NodeID))
	r.ConfigNames = []string{name}
	req.Resources = append(req.Resources, r)
	resp, err := req.RequestWith(ctx, cl)
	if err != nil || len(resp.Resources) != 1 || resp.Resources[0].ErrorCode != 0 {
		return 0, false
	}
	for _, c := range resp.Resources[0].Configs {
		if c.Name == name && c.Value != nil {
			ms, err := strconv.ParseInt(*c.Value, 10, 64)
			return time.Duration(ms) * time.Millisecond, err == nil
		}
	}
	return 0, false
}

func timeoutError(timeout, limit time.Duration, cause error) error {
	reason := "the broker does not allow it"
	if limit > 0 {
		reason = fmt.Sprintf("the broker allows at most %s (transaction.max.timeout.ms)", limit)
	}
	return &fault.Error{
		Code: "txn/timeout", Kind: fault.Config, Thing: "transaction timeout", Value: timeout.String(), Reason: reason,
		Remedy: "choose a shorter transaction timeout, or raise transaction.max.timeout.ms on the brokers", Err: cause,
	}
}

// timeoutRefused is INVALID_TRANSACTION_TIMEOUT with both values.
func (p *Producer) timeoutRefused(ctx context.Context, cause error) error {
	var limit time.Duration
	if cl, err := p.plain(); err == nil {
		limit, _ = maxTimeout(ctx, cl)
		cl.Close()
	}
	return timeoutError(p.c.Timeout, limit, cause)
}

// failure makes the error of a phase; a fatal one says what a person can do about it.
func (p *Producer) failure(phase Phase, action Action, err error) *Error {
	return newError(p.c.TransactionalID, p.c.Group, phase, action, err)
}

func newError(txnID, group string, phase Phase, action Action, err error) *Error {
	e := &Error{TxnID: txnID, Phase: phase, Action: action, Err: err}
	if action != ActFatal {
		return e
	}
	denied := func(thing, value, reason, remedy string) {
		e.Err = &fault.Error{Code: "txn/denied", Kind: fault.Cluster, Thing: thing, Value: value, Reason: reason, Remedy: remedy, Err: err}
	}
	const no = "the cluster does not let this principal use it"
	switch {
	case errors.Is(err, kerr.TransactionalIDAuthorizationFailed):
		denied("transactional id", txnID, no, "grant WRITE and DESCRIBE on transactional ids with the prefix "+idPrefix)
	case errors.Is(err, kerr.GroupAuthorizationFailed):
		denied("consumer group", group, no, "grant READ on the group")
	case errors.Is(err, kerr.TopicAuthorizationFailed):
		denied("topic", "", no, "grant READ on input topics, WRITE on output and internal topics")
	case errors.Is(err, kerr.ClusterAuthorizationFailed):
		denied("the cluster", "", no, "grant IDEMPOTENT_WRITE on the cluster")
	case errors.Is(err, kerr.SaslAuthenticationFailed):
		denied("the cluster", "", "it does not accept the credentials", "correct user, password or mechanism")
	case errors.Is(err, kerr.UnsupportedVersion), errors.Is(err, kerr.UnsupportedForMessageFormat):
		e.Err = &fault.Error{
			Code: "cluster/api-version", Kind: fault.Cluster, Thing: "the brokers", Reason: "they do not speak the transaction protocol of KIP-890",
			Remedy: "use brokers of Kafka 4.0 or later", Err: err,
		}
	case errors.Is(err, kerr.InvalidGroupID):
		e.Err = &fault.Error{
			Code: "txn/config", Kind: fault.Config, Thing: "consumer group", Value: group, Reason: "the broker does not accept the name",
			Remedy: "choose another application id", Err: err,
		}
	}
	return e
}
