package io.millrace.bench;

import java.util.List;
import java.util.Map;

/**
 * What the harness wants done: the environment that bench/README.md describes, checked. An app that cannot do a job says so and
 * ends with 2.
 *
 * @param memory bytes the app may use for everything; 0: its default
 * @param staticId group.instance.id, empty: none
 * @param stateBytes bytes of a row of workload aggregate
 */
public record Job(
    String workload, String brokers, String in, String table, String out, String app, String state, boolean exactlyOnce,
    long commitMillis, int sessionMillis, long memory, String staticId, int stateBytes) {

  private static final List<String> WORKLOADS = List.of("pass", "map", "count", "aggregate", "repartition", "join");

  /** The job of this process. */
  public static Job fromEnvironment() {
    try {
      return from(System.getenv());
    } catch (IllegalArgumentException e) {
      System.err.println(e.getMessage());
      System.exit(2);
      throw e;
    }
  }

  static Job from(Map<String, String> env) {
    String guarantee = oneOf(env, "BENCH_GUARANTEE", List.of("exactly_once", "at_least_once"));
    String workload = oneOf(env, "BENCH_WORKLOAD", WORKLOADS);
    return new Job(
        workload,
        text(env, "BENCH_BROKERS"),
        text(env, "BENCH_IN"),
        workload.equals("join") ? text(env, "BENCH_TABLE") : "",
        text(env, "BENCH_OUT"),
        text(env, "BENCH_APP"),
        text(env, "BENCH_STATE"),
        guarantee.equals("exactly_once"),
        number(env, "BENCH_COMMIT_MS", 100),
        Math.toIntExact(number(env, "BENCH_SESSION_MS", 0)),
        number(env, "BENCH_MEMORY", 0),
        env.getOrDefault("BENCH_STATIC", ""),
        Math.toIntExact(number(env, "BENCH_STATE_BYTES", 200)));
  }

  private static String text(Map<String, String> env, String name) {
    String v = env.getOrDefault(name, "");
    if (v.isEmpty()) {
      throw new IllegalArgumentException(name + " is not set; bench/README.md has the contract of an app");
    }
    return v;
  }

  private static String oneOf(Map<String, String> env, String name, List<String> known) {
    String v = text(env, name);
    if (!known.contains(v)) {
      throw new IllegalArgumentException(name + " is \"" + v + "\", which is none of " + String.join(", ", known));
    }
    return v;
  }

  private static long number(Map<String, String> env, String name, long absent) {
    String v = env.getOrDefault(name, "");
    if (v.isEmpty()) {
      return absent;
    }
    try {
      long n = Long.parseLong(v);
      if (n >= 0) {
        return n;
      }
    } catch (NumberFormatException e) {
      // said below
    }
    throw new IllegalArgumentException(name + " is \"" + v + "\", which is no number from 0");
  }
}
