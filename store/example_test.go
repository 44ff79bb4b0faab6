package store_test

import (
	"fmt"

	"github.com/millrace-io/millrace/serde"
	"github.com/millrace-io/millrace/store"
)

var stock = store.KeyValue("stock", serde.String(), serde.Int64())

// openStock opens a task's state in memory. In a program the runtime does this, and a node calls stock.In(ctx) in its Init.
func openStock() (*store.DB, *store.KV[string, int64]) {
	db, err := store.Open(store.NewMemory(), []store.Binding{{Spec: stock, Prefix: 1}}, store.Options{})
	if err != nil {
		panic(err)
	}
	kv, err := stock.In(db)
	if err != nil {
		panic(err)
	}
	return db, kv
}

func ExampleKV() {
	db, kv := openStock()
	defer db.Close()

	_ = kv.Put("apples", 3)
	n, ok, _ := kv.Get("apples")
	fmt.Println(n, ok)
	old, present, _ := kv.PutIfAbsent("apples", 99)
	fmt.Println(old, present)
	old, present, _ = kv.Delete("apples")
	fmt.Println(old, present)
	n, ok, _ = kv.Get("apples")
	fmt.Println(n, ok)
	// Output:
	// 3 true
	// 3 true
	// 3 true
	// 0 false
}

func ExampleKV_Range() {
	db, kv := openStock()
	defer db.Close()
	for i, k := range []string{"pears", "apples", "plums", "quinces"} {
		_ = kv.Put(k, int64(i))
	}

	scan := kv.Range("b", "plums")
	for k, n := range scan.Rows() {
		fmt.Println(k, n)
	}
	if scan.Err() != nil {
		fmt.Println(scan.Err())
	}
	// Output:
	// pears 0
	// plums 2
}

func ExampleKV_Prefix() {
	db, kv := openStock()
	defer db.Close()
	for _, k := range []string{"eu/de", "eu/fr", "us/ca"} {
		_ = kv.Put(k, 1)
	}

	// Rows may be changed while they are looked at.
	for k := range kv.Prefix("eu/").Reverse().Rows() {
		fmt.Println(k)
		_, _, _ = kv.Delete(k)
	}
	fmt.Println(kv.ApproximateLen(), "left")
	// Output:
	// eu/fr
	// eu/de
	// 1 left
}

func ExampleDB() {
	db, kv := openStock()
	defer db.Close()

	_ = kv.Put("apples", 3)
	db.Savepoint() // the record is done
	_ = kv.Put("apples", 4)
	_ = kv.Put("pears", 1)
	db.Rollback() // the next one failed

	epoch := db.Seal()
	_ = epoch.Each(func(store string, key, value []byte) error {
		fmt.Printf("changelog of %s: %s, %d bytes\n", store, key, len(value))
		return nil
	})
	// The transaction committed: the rows go to the engine, with the checkpoint that says so.
	if err := db.Apply(epoch, []byte("offset 42")); err != nil {
		fmt.Println(err)
	}
	checkpoint, _, _ := db.Checkpoint()
	fmt.Printf("%s\n", checkpoint)
	// Output:
	// changelog of stock: apples, 18 bytes
	// offset 42
}

func ExampleRows_Scan() {
	db, kv := openStock()
	defer db.Close()
	db.SetTime(1000)
	_ = kv.Put("apples", 3)
	_ = kv.Put("pears", 5)

	rows, _ := db.Rows("stock")
	scan := rows.Scan(nil, nil, true)
	for scan.Next() {
		fmt.Printf("%s %x at %d\n", scan.Key(), scan.Value(), scan.Time())
	}
	if err := scan.Close(); err != nil {
		fmt.Println(err)
	}
	// Output:
	// pears 0000000000000005 at 1000
	// apples 0000000000000003 at 1000
}

func ExampleShareOut() {
	m, _ := store.ShareOut(512<<20, 8)
	fmt.Printf("memtable %d MiB, block cache %d MiB, table of a task %d MiB, overlays %d MiB\n",
		m.MemTable>>20, m.BlockCache>>20, m.ReadCache>>20, m.Overlay>>20)

	_, err := store.ShareOut(1<<20, 8)
	fmt.Println(err)
	// Output:
	// memtable 1 MiB, block cache 97 MiB, table of a task 24 MiB, overlays 66 MiB
	// store/memory-limit: memory limit "1048576 bytes": 8 tasks need at least 31923316 bytes (31 MiB); raise the limit, or run more instances so that each has fewer tasks
}
