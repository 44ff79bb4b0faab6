package io.millrace.bench;

/** The lines of JSON that an app prints: when it runs, what it restored, and that it has stopped as it was told to. */
public final class Say {
  private Say() {}

  /** It is ready to process. */
  public static void running() {
    line("running", "");
  }

  /** One store of one task is complete. */
  public static void restored(String task, String store, long records, double seconds) {
    line("restored", String.format(",\"task\":\"%s\",\"store\":\"%s\",\"records\":%d,\"seconds\":%.3f", task, store, records, seconds));
  }

  /** It has stopped; the last line. */
  public static void done() {
    line("done", "");
  }

  private static synchronized void line(String event, String rest) {
    System.out.printf("{\"event\":\"%s\",\"at\":%.3f%s}%n", event, System.currentTimeMillis() / 1000.0, rest);
    System.out.flush();
  }
}
