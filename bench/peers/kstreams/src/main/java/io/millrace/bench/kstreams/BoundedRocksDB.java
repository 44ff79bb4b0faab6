package io.millrace.bench.kstreams;

import java.util.Map;
import org.apache.kafka.streams.state.RocksDBConfigSetter;
import org.rocksdb.BlockBasedTableConfig;
import org.rocksdb.Cache;
import org.rocksdb.LRUCache;
import org.rocksdb.Options;
import org.rocksdb.RocksDB;
import org.rocksdb.WriteBufferManager;

/**
 * Bounds what RocksDB takes in one process: the blocks, the index and filter blocks and the memtables of all stores share one cache
 * of {@link #BYTES}, of which memtables may be half. It is what Kafka's documentation recommends. The JVM's heap is not in it.
 */
public final class BoundedRocksDB implements RocksDBConfigSetter {
  /** Setting with the bytes for all stores together. */
  public static final String BYTES = "bench.rocksdb.bytes";

  private static Cache cache;
  private static WriteBufferManager memtables;

  private static synchronized void open(long bytes) {
    if (cache == null) {
      RocksDB.loadLibrary();
      cache = new LRUCache(bytes, -1, false, 0.1);
      memtables = new WriteBufferManager(bytes / 2, cache);
    }
  }

  @Override
  public void setConfig(String store, Options options, Map<String, Object> settings) {
    open(Long.parseLong(settings.get(BYTES).toString()));
    BlockBasedTableConfig table = (BlockBasedTableConfig) options.tableFormatConfig();
    table.setBlockCache(cache);
    table.setCacheIndexAndFilterBlocks(true);
    table.setCacheIndexAndFilterBlocksWithHighPriority(true);
    table.setPinTopLevelIndexAndFilter(true);
    options.setWriteBufferManager(memtables);
    options.setTableFormatConfig(table);
  }

  /** The cache belongs to all stores and lives as long as the process. */
  @Override
  public void close(String store, Options options) {}
}
