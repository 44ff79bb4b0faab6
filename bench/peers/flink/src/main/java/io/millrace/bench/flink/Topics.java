package io.millrace.bench.flink;

import io.millrace.bench.Job;
import java.nio.charset.StandardCharsets;
import org.apache.flink.api.common.eventtime.WatermarkStrategy;
import org.apache.flink.api.common.typeinfo.PrimitiveArrayTypeInfo;
import org.apache.flink.api.common.typeinfo.TypeInformation;
import org.apache.flink.api.common.typeinfo.Types;
import org.apache.flink.api.java.tuple.Tuple2;
import org.apache.flink.connector.base.DeliveryGuarantee;
import org.apache.flink.connector.kafka.sink.KafkaRecordSerializationSchema;
import org.apache.flink.connector.kafka.sink.KafkaSink;
import org.apache.flink.connector.kafka.sink.KafkaSinkBuilder;
import org.apache.flink.connector.kafka.source.KafkaSource;
import org.apache.flink.connector.kafka.source.KafkaSourceBuilder;
import org.apache.flink.connector.kafka.source.enumerator.initializer.OffsetsInitializer;
import org.apache.flink.connector.kafka.source.reader.deserializer.KafkaRecordDeserializationSchema;
import org.apache.flink.streaming.api.datastream.DataStream;
import org.apache.flink.streaming.api.environment.StreamExecutionEnvironment;
import org.apache.flink.util.Collector;
import org.apache.kafka.clients.consumer.ConsumerRecord;
import org.apache.kafka.clients.producer.ProducerRecord;

/** The topics of a job as streams. Flink cannot key by bytes, so keys are strings; values are bytes. */
final class Topics {
  static final TypeInformation<Tuple2<String, byte[]>> PAIR = Types.TUPLE(Types.STRING, PrimitiveArrayTypeInfo.BYTE_PRIMITIVE_ARRAY_TYPE_INFO);

  private Topics() {}

  static DataStream<Tuple2<String, byte[]>> read(StreamExecutionEnvironment env, Job job, String topic) {
    KafkaSourceBuilder<Tuple2<String, byte[]>> b =
        KafkaSource.<Tuple2<String, byte[]>>builder()
            .setBootstrapServers(job.brokers())
            .setTopics(topic)
            .setGroupId(job.app())
            .setStartingOffsets(OffsetsInitializer.earliest())
            .setDeserializer(new Decode())
            .setProperty("isolation.level", "read_committed");
    return env.fromSource(b.build(), WatermarkStrategy.noWatermarks(), topic);
  }

  static KafkaSink<Tuple2<String, byte[]>> write(Job job) {
    KafkaSinkBuilder<Tuple2<String, byte[]>> b =
        KafkaSink.<Tuple2<String, byte[]>>builder()
            .setBootstrapServers(job.brokers())
            .setRecordSerializer(new Encode(job.out()))
            .setDeliveryGuarantee(job.exactlyOnce() ? DeliveryGuarantee.EXACTLY_ONCE : DeliveryGuarantee.AT_LEAST_ONCE)
            .setProperty("transaction.timeout.ms", "120000");
    if (job.exactlyOnce()) {
      b.setTransactionalIdPrefix(job.app());
    }
    return b.build();
  }

  private static final class Decode implements KafkaRecordDeserializationSchema<Tuple2<String, byte[]>> {
    private static final long serialVersionUID = 1;

    @Override
    public void deserialize(ConsumerRecord<byte[], byte[]> r, Collector<Tuple2<String, byte[]>> out) {
      out.collect(Tuple2.of(new String(r.key(), StandardCharsets.ISO_8859_1), r.value()));
    }

    @Override
    public TypeInformation<Tuple2<String, byte[]>> getProducedType() {
      return PAIR;
    }
  }

  private static final class Encode implements KafkaRecordSerializationSchema<Tuple2<String, byte[]>> {
    private static final long serialVersionUID = 1;
    private final String topic;

    Encode(String topic) {
      this.topic = topic;
    }

    @Override
    public ProducerRecord<byte[], byte[]> serialize(Tuple2<String, byte[]> r, KafkaSinkContext ctx, Long timestamp) {
      return new ProducerRecord<>(topic, null, timestamp, r.f0.getBytes(StandardCharsets.ISO_8859_1), r.f1);
    }
  }
}
