package io.millrace.bench.flink;

import io.millrace.bench.Job;
import io.millrace.bench.Records;
import java.nio.ByteBuffer;
import org.apache.flink.api.common.functions.OpenContext;
import org.apache.flink.api.common.state.ListState;
import org.apache.flink.api.common.state.ListStateDescriptor;
import org.apache.flink.api.common.state.ValueState;
import org.apache.flink.api.common.state.ValueStateDescriptor;
import org.apache.flink.api.common.typeinfo.PrimitiveArrayTypeInfo;
import org.apache.flink.api.common.typeinfo.TypeInformation;
import org.apache.flink.api.common.typeinfo.Types;
import org.apache.flink.api.java.tuple.Tuple2;
import org.apache.flink.streaming.api.datastream.DataStream;
import org.apache.flink.streaming.api.environment.StreamExecutionEnvironment;
import org.apache.flink.streaming.api.functions.KeyedProcessFunction;
import org.apache.flink.streaming.api.functions.co.KeyedCoProcessFunction;
import org.apache.flink.util.Collector;

/** The jobs, in the DataStream API: source, keyBy, keyed state, sink. */
final class Workloads {
  private static final TypeInformation<byte[]> BYTES = PrimitiveArrayTypeInfo.BYTE_PRIMITIVE_ARRAY_TYPE_INFO;

  private Workloads() {}

  static void build(Job job, StreamExecutionEnvironment env) {
    DataStream<Tuple2<String, byte[]>> in = Topics.read(env, job, job.in());
    DataStream<Tuple2<String, byte[]>> out =
        switch (job.workload()) {
          case "pass" -> in;
          case "map" ->
              in.filter(r -> (r.f0.charAt(r.f0.length() - 1) & 1) == 0)
                  .map(r -> Tuple2.of(r.f0, Records.upper(r.f1)), Topics.PAIR);
          case "count" -> count(in.map(r -> r.f0, Types.STRING));
          case "repartition" -> count(in.map(r -> r.f0.substring(0, r.f0.length() - 1) + '0', Types.STRING));
          case "aggregate" -> in.keyBy(r -> r.f0, Types.STRING).process(new Aggregate(job.stateBytes()), Topics.PAIR);
          case "join" ->
              in.keyBy(r -> r.f0, Types.STRING)
                  .connect(Topics.read(env, job, job.table()).keyBy(r -> r.f0, Types.STRING))
                  .process(new Join(), Topics.PAIR);
          default -> throw new IllegalArgumentException(job.workload());
        };
    out.sinkTo(Topics.write(job));
  }

  /** Only the keys go over the network between the tasks: nobody reads the values. */
  private static DataStream<Tuple2<String, byte[]>> count(DataStream<String> keys) {
    return keys.keyBy(k -> k, Types.STRING).process(new Count(), Topics.PAIR);
  }

  private static final class Count extends KeyedProcessFunction<String, String, Tuple2<String, byte[]>> {
    private static final long serialVersionUID = 1;
    private transient ValueState<Long> counts;

    @Override
    public void open(OpenContext ctx) {
      counts = getRuntimeContext().getState(new ValueStateDescriptor<>("counts", Types.LONG));
    }

    @Override
    public void processElement(String key, Context ctx, Collector<Tuple2<String, byte[]>> out) throws Exception {
      Long before = counts.value();
      long n = before == null ? 1 : before + 1;
      counts.update(n);
      out.collect(Tuple2.of(key, ByteBuffer.allocate(Long.BYTES).putLong(n).array()));
    }
  }

  private static final class Aggregate extends KeyedProcessFunction<String, Tuple2<String, byte[]>, Tuple2<String, byte[]>> {
    private static final long serialVersionUID = 1;
    private final int bytes;
    private transient ValueState<byte[]> rows;

    Aggregate(int bytes) {
      this.bytes = bytes;
    }

    @Override
    public void open(OpenContext ctx) {
      rows = getRuntimeContext().getState(new ValueStateDescriptor<>("rows", BYTES));
    }

    @Override
    public void processElement(Tuple2<String, byte[]> r, Context ctx, Collector<Tuple2<String, byte[]>> out) throws Exception {
      byte[] row = Records.row(rows.value(), r.f1, bytes);
      rows.update(row);
      out.collect(Tuple2.of(r.f0, row));
    }
  }

  /** Flink does not read one input before the other: what comes before its row of the table waits for it. */
  private static final class Join
      extends KeyedCoProcessFunction<String, Tuple2<String, byte[]>, Tuple2<String, byte[]>, Tuple2<String, byte[]>> {
    private static final long serialVersionUID = 1;
    private transient ValueState<byte[]> rows;
    private transient ListState<byte[]> early;

    @Override
    public void open(OpenContext ctx) {
      rows = getRuntimeContext().getState(new ValueStateDescriptor<>("table", BYTES));
      early = getRuntimeContext().getListState(new ListStateDescriptor<>("early", BYTES));
    }

    @Override
    public void processElement1(Tuple2<String, byte[]> r, Context ctx, Collector<Tuple2<String, byte[]>> out) throws Exception {
      byte[] row = rows.value();
      if (row == null) {
        early.add(r.f1);
        return;
      }
      out.collect(Tuple2.of(r.f0, Records.joined(row, r.f1)));
    }

    @Override
    public void processElement2(Tuple2<String, byte[]> r, Context ctx, Collector<Tuple2<String, byte[]>> out) throws Exception {
      rows.update(r.f1);
      for (byte[] value : early.get()) {
        out.collect(Tuple2.of(r.f0, Records.joined(r.f1, value)));
      }
      early.clear();
    }
  }
}
