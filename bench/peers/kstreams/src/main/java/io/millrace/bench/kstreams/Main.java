package io.millrace.bench.kstreams;

import io.millrace.bench.Job;
import io.millrace.bench.Say;
import java.time.Duration;
import java.util.Map;
import java.util.Properties;
import java.util.concurrent.ConcurrentHashMap;
import java.util.concurrent.CountDownLatch;
import org.apache.kafka.clients.consumer.ConsumerConfig;
import org.apache.kafka.common.TopicPartition;
import org.apache.kafka.streams.KafkaStreams;
import org.apache.kafka.streams.StreamsConfig;
import org.apache.kafka.streams.errors.StreamsUncaughtExceptionHandler.StreamThreadExceptionResponse;
import org.apache.kafka.streams.processor.StateRestoreListener;

/**
 * A workload of the benchmark on Kafka Streams. The job comes in the environment; arguments are name=value: {@code cache=off} turns
 * the record cache off, every other is a setting of Kafka Streams ({@code num.stream.threads=2}). All that is not named has its
 * default.
 */
public final class Main {
  private Main() {}

  public static void main(String[] args) throws InterruptedException {
    Job job = Job.fromEnvironment();
    Properties settings = settings(job, args);
    KafkaStreams streams = new KafkaStreams(Workloads.of(job, settings), settings);
    CountDownLatch failed = new CountDownLatch(1);
    streams.setUncaughtExceptionHandler(e -> {
      e.printStackTrace();
      failed.countDown();
      return StreamThreadExceptionResponse.SHUTDOWN_CLIENT;
    });
    streams.setStateListener((now, before) -> {
      if (now == KafkaStreams.State.RUNNING) {
        Say.running();
      }
    });
    streams.setGlobalStateRestoreListener(new Restores());
    Runtime.getRuntime().addShutdownHook(new Thread(() -> {
      if (failed.getCount() == 0) {
        return;
      }
      streams.close(Duration.ofSeconds(8));
      Say.done();
      Runtime.getRuntime().halt(0); // to be told to stop is no failure, as 143 would be
    }));
    streams.start();
    failed.await();
    System.exit(1);
  }

  static Properties settings(Job job, String[] args) {
    Properties p = new Properties();
    p.put(StreamsConfig.APPLICATION_ID_CONFIG, job.app());
    p.put(StreamsConfig.BOOTSTRAP_SERVERS_CONFIG, job.brokers());
    p.put(StreamsConfig.STATE_DIR_CONFIG, job.state());
    p.put(StreamsConfig.PROCESSING_GUARANTEE_CONFIG, job.exactlyOnce() ? StreamsConfig.EXACTLY_ONCE_V2 : StreamsConfig.AT_LEAST_ONCE);
    p.put(StreamsConfig.COMMIT_INTERVAL_MS_CONFIG, job.commitMillis());
    p.put(StreamsConfig.REPLICATION_FACTOR_CONFIG, 1);
    p.put(StreamsConfig.TOPOLOGY_OPTIMIZATION_CONFIG, StreamsConfig.OPTIMIZE); // a table's changelog is its topic
    p.put(StreamsConfig.consumerPrefix(ConsumerConfig.AUTO_OFFSET_RESET_CONFIG), "earliest");
    p.put(StreamsConfig.consumerPrefix(ConsumerConfig.ISOLATION_LEVEL_CONFIG), "read_committed");
    if (job.sessionMillis() > 0) {
      p.put(StreamsConfig.mainConsumerPrefix(ConsumerConfig.SESSION_TIMEOUT_MS_CONFIG), job.sessionMillis());
      p.put(StreamsConfig.mainConsumerPrefix(ConsumerConfig.HEARTBEAT_INTERVAL_MS_CONFIG), Math.min(3000, Math.max(1, job.sessionMillis() / 3)));
    }
    if (!job.staticId().isEmpty()) {
      p.put(StreamsConfig.mainConsumerPrefix(ConsumerConfig.GROUP_INSTANCE_ID_CONFIG), job.staticId());
    }
    if (job.memory() > 0) {
      p.put(StreamsConfig.ROCKSDB_CONFIG_SETTER_CLASS_CONFIG, BoundedRocksDB.class);
      p.put(BoundedRocksDB.BYTES, job.memory());
    }
    for (String arg : args) {
      String[] pair = arg.split("=", 2);
      if (pair.length != 2) {
        System.err.println("\"" + arg + "\" is not name=value");
        System.exit(2);
      }
      if (arg.equals("cache=off")) {
        p.put(StreamsConfig.STATESTORE_CACHE_MAX_BYTES_CONFIG, 0L);
      } else {
        p.put(pair[0], pair[1]);
      }
    }
    return p;
  }

  /** Tells when a store has been restored. Each changelog partition is restored by one thread; the threads share this. */
  private static final class Restores implements StateRestoreListener {
    private final Map<TopicPartition, Long> began = new ConcurrentHashMap<>();

    @Override
    public void onRestoreStart(TopicPartition changelog, String store, long first, long end) {
      began.put(changelog, System.nanoTime());
    }

    @Override
    public void onBatchRestored(TopicPartition changelog, String store, long end, long records) {}

    @Override
    public void onRestoreEnd(TopicPartition changelog, String store, long records) {
      Long at = began.remove(changelog);
      Say.restored("0_" + changelog.partition(), store, records, at == null ? 0 : (System.nanoTime() - at) / 1e9);
    }
  }
}
