package io.millrace.bench.kstreams;

import io.millrace.bench.Job;
import io.millrace.bench.Records;
import java.util.Properties;
import org.apache.kafka.common.serialization.Serde;
import org.apache.kafka.common.serialization.Serdes;
import org.apache.kafka.common.utils.Bytes;
import org.apache.kafka.streams.StreamsBuilder;
import org.apache.kafka.streams.Topology;
import org.apache.kafka.streams.kstream.Consumed;
import org.apache.kafka.streams.kstream.Grouped;
import org.apache.kafka.streams.kstream.Joined;
import org.apache.kafka.streams.kstream.KStream;
import org.apache.kafka.streams.kstream.KTable;
import org.apache.kafka.streams.kstream.Materialized;
import org.apache.kafka.streams.kstream.Produced;
import org.apache.kafka.streams.state.KeyValueStore;

/**
 * The topologies, in the DSL. Keys are bytes, which is the cheapest that Kafka Streams has; counts are Longs. State is in RocksDB
 * with a changelog.
 */
final class Workloads {
  private static final Serde<byte[]> BYTES = Serdes.ByteArray();

  private Workloads() {}

  static Topology of(Job job, Properties settings) {
    StreamsBuilder b = new StreamsBuilder();
    Consumed<byte[], byte[]> bytes = Consumed.with(BYTES, BYTES);
    KStream<byte[], byte[]> in = b.stream(job.in(), bytes);
    Produced<byte[], byte[]> values = Produced.with(BYTES, BYTES);
    switch (job.workload()) {
      case "pass" -> in.to(job.out(), values);
      case "map" -> in.filter((k, v) -> Records.even(k)).mapValues(Records::upper).to(job.out(), values);
      case "count" -> count(in, job);
      case "repartition" -> count(in.selectKey((k, v) -> Records.ofTen(k)), job);
      case "aggregate" -> {
        int size = job.stateBytes();
        in.groupByKey(Grouped.with(BYTES, BYTES))
            .aggregate(() -> null, (k, v, row) -> Records.row(row, v, size), store("rows", BYTES))
            .toStream()
            .to(job.out(), values);
      }
      case "join" -> {
        KTable<byte[], byte[]> rows = b.table(job.table(), bytes, store("table", BYTES));
        in.join(rows, (v, row) -> Records.joined(row, v), Joined.with(BYTES, BYTES, BYTES)).to(job.out(), values);
      }
      default -> throw new IllegalArgumentException(job.workload());
    }
    return b.build(settings);
  }

  private static void count(KStream<byte[], byte[]> in, Job job) {
    in.groupByKey(Grouped.<byte[], byte[]>as("by-key").withKeySerde(BYTES).withValueSerde(BYTES))
        .count(store("counts", Serdes.Long()))
        .toStream()
        .to(job.out(), Produced.with(BYTES, Serdes.Long()));
  }

  private static <V> Materialized<byte[], V, KeyValueStore<Bytes, byte[]>> store(String name, Serde<V> values) {
    return Materialized.<byte[], V, KeyValueStore<Bytes, byte[]>>as(name).withKeySerde(BYTES).withValueSerde(values);
  }
}
