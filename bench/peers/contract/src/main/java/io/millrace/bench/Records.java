package io.millrace.bench;

import java.nio.ByteBuffer;
import java.util.Arrays;

/** What the workloads do to one record, the same for every app on the JVM. Nothing here keeps or changes what it is given. */
public final class Records {
  private Records() {}

  /** Whether workload map lets the key pass: its last digit is even. */
  public static boolean even(byte[] key) {
    return key.length > 0 && (key[key.length - 1] & 1) == 0;
  }

  /** A copy with the ASCII letters in upper case. */
  public static byte[] upper(byte[] value) {
    byte[] up = value.clone();
    for (int i = 0; i < up.length; i++) {
      if (up[i] >= 'a' && up[i] <= 'z') {
        up[i] -= 'a' - 'A';
      }
    }
    return up;
  }

  /** The key of ten keys: the last digit is 0. */
  public static byte[] ofTen(byte[] key) {
    byte[] ten = key.clone();
    ten[ten.length - 1] = '0';
    return ten;
  }

  /** The next row of workload aggregate: one more, and the beginning of the value. A row that is null is the first. */
  public static byte[] row(byte[] before, byte[] value, int bytes) {
    byte[] row = new byte[bytes];
    long n = before == null ? 0 : ByteBuffer.wrap(before).getLong();
    ByteBuffer.wrap(row).putLong(n + 1);
    System.arraycopy(value, 0, row, Long.BYTES, Math.min(value.length, bytes - Long.BYTES));
    return row;
  }

  /** The first 8 bytes of a row of the table, and the value. */
  public static byte[] joined(byte[] row, byte[] value) {
    byte[] both = Arrays.copyOf(row, Long.BYTES + value.length);
    System.arraycopy(value, 0, both, Long.BYTES, value.length);
    return both;
  }
}
