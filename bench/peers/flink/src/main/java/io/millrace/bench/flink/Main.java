package io.millrace.bench.flink;

import io.millrace.bench.Job;
import io.millrace.bench.Say;
import java.util.concurrent.ExecutionException;
import java.util.concurrent.TimeUnit;
import java.util.concurrent.TimeoutException;
import org.apache.flink.api.common.JobStatus;
import org.apache.flink.configuration.Configuration;
import org.apache.flink.core.execution.JobClient;
import org.apache.flink.streaming.api.environment.StreamExecutionEnvironment;

/**
 * A workload of the benchmark on Flink's mini-cluster, all in this process. The job comes in the environment; arguments are
 * name=value and go to Flink's configuration, but for {@code parallelism}, which is 2. State is in RocksDB, with incremental
 * checkpoints in the state directory.
 */
public final class Main {
  private Main() {}

  public static void main(String[] args) throws Exception {
    Job job = Job.fromEnvironment();
    int parallelism = 2;
    Configuration c = configuration(job);
    for (String arg : args) {
      String[] pair = arg.split("=", 2);
      if (pair.length != 2) {
        System.err.println("\"" + arg + "\" is not name=value");
        System.exit(2);
      }
      if (pair[0].equals("parallelism")) {
        parallelism = Integer.parseInt(pair[1]);
      } else {
        c.setString(pair[0], pair[1]);
      }
    }
    StreamExecutionEnvironment env = StreamExecutionEnvironment.createLocalEnvironment(parallelism, c);
    Workloads.build(job, env);
    JobClient client = env.executeAsync(job.app());
    Thread stop = new Thread(() -> stop(client));
    Runtime.getRuntime().addShutdownHook(stop);
    while (client.getJobStatus().get() != JobStatus.RUNNING) {
      Thread.sleep(50);
    }
    Say.running();
    try {
      client.getJobExecutionResult().get();
      System.err.println("the job has ended");
    } catch (ExecutionException e) {
      e.printStackTrace();
    }
    Runtime.getRuntime().removeShutdownHook(stop); // refused while it runs: then this was told to stop
    System.exit(1);
  }

  /** What the harness's stop does: the job is cancelled, and to be told to stop is no failure, as 143 would be. */
  private static void stop(JobClient client) {
    try {
      client.cancel().get(8, TimeUnit.SECONDS);
    } catch (InterruptedException | ExecutionException | TimeoutException e) {
      e.printStackTrace();
    }
    Say.done();
    Runtime.getRuntime().halt(0);
  }

  static Configuration configuration(Job job) {
    Configuration c = new Configuration();
    c.setString("pipeline.object-reuse", "true");
    c.setString("taskmanager.memory.managed.size", job.memory() > 0 ? job.memory() + "b" : "512m");
    c.setString("taskmanager.memory.network.min", "64m");
    c.setString("taskmanager.memory.network.max", "64m");
    c.setString("state.backend.type", "rocksdb");
    c.setString("execution.checkpointing.incremental", "true");
    c.setString("execution.checkpointing.interval", job.commitMillis() + "ms");
    c.setString("execution.checkpointing.mode", job.exactlyOnce() ? "EXACTLY_ONCE" : "AT_LEAST_ONCE");
    c.setString("execution.checkpointing.dir", "file://" + job.state() + "/checkpoints");
    c.setString("io.tmp.dirs", job.state() + "/tmp");
    c.setString("restart-strategy.type", "none"); // a failure shall be seen
    return c;
  }
}
