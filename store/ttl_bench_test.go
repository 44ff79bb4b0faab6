package store_test

import (
	"testing"
	"time"

	"github.com/millrace-io/millrace/serde"
	"github.com/millrace-io/millrace/store"
	"github.com/millrace-io/millrace/ttl"
)

const benchLife = 1_000_000 // ms; preset entries are written over that time

// onTTL runs an operation of Flink's benchmarks of state with a time to live in all their variants: how much expires, what counts, and what
// a read of a dead entry returns. "Expire3Percent" moves the clock by 3 % of the time to live per pass over all keys. The clean-up runs after each
// record as the kernel has it run.
func onTTL(b *testing.B, name string, declare func(store.Option) store.Spec, f func(s *stateBench) (preset, op func(key int64) error)) {
	policies := map[string]ttl.Policy{"OnCreateAndWrite": ttl.AfterWrite(benchLife * time.Millisecond), "OnReadAndWrite": ttl.AfterAccess(benchLife * time.Millisecond)}
	for _, expire := range []string{"Expire3Percent", "NeverExpired"} {
		for _, update := range []string{"OnCreateAndWrite", "OnReadAndWrite"} {
			for _, visible := range []string{"NeverReturnExpired", "ReturnExpiredIfNotCleanedUp"} {
				b.Run(name+"/"+expire+"/"+update+"/"+visible, func(b *testing.B) {
					p := policies[update]
					if visible != "NeverReturnExpired" {
						p = p.ReturnExpiredIfNotCleanedUp()
					}
					on(b, declare(store.WithTTL(p)), func(s *stateBench) func(int64) error {
						preset, op := f(s)
						keys := int64(len(s.keys))
						if preset != nil {
							n := int64(0)
							s.fill(func(key int64) error {
								s.db.SetClocks(n*benchLife/keys, -1)
								n++
								return preset(key)
							})
						}
						n := int64(0)
						return func(key int64) error {
							now := int64(benchLife - 1)
							if expire == "Expire3Percent" {
								now += n * benchLife * 3 / 100 / keys
								n++
							}
							s.db.SetClocks(now, -1)
							if s.db.SweepDue() {
								if _, _, err := s.db.Sweep(512); err != nil {
									return err
								}
							}
							return op(key)
						}
					})
				})
			}
		}
	}
}

func BenchmarkTtlValueState(b *testing.B) {
	declare := func(o store.Option) store.Spec { return store.Value("v", serde.Int64(), serde.Int64(), o) }
	with := func(name string, preset bool, op func(v store.ValueState[int64, int64]) func(int64) error) {
		onTTL(b, name, declare, func(s *stateBench) (func(int64) error, func(int64) error) {
			s.db.SetClocks(0, -1)
			v, err := benchValue.In(s.db)
			s.must(err)
			if !preset {
				return nil, op(v)
			}
			return func(key int64) error { return v.Put(key, key) }, op(v)
		})
	}
	with("valueUpdate", true, func(v store.ValueState[int64, int64]) func(int64) error {
		return func(key int64) error { return v.Put(key, key+1) }
	})
	with("valueAdd", false, func(v store.ValueState[int64, int64]) func(int64) error {
		fresh := int64(0)
		return func(int64) error {
			fresh++
			return v.Put(fresh, fresh)
		}
	})
	with("valueGet", true, func(v store.ValueState[int64, int64]) func(int64) error {
		return func(key int64) error {
			_, _, err := v.Get(key)
			return err
		}
	})
}

func BenchmarkTtlListState(b *testing.B) {
	declare := func(o store.Option) store.Spec { return store.List("l", serde.Int64(), serde.Int64(), o) }
	with := func(name string, op func(l store.ListState[int64, int64]) func(int64) error) {
		onTTL(b, name, declare, func(s *stateBench) (func(int64) error, func(int64) error) {
			l, err := benchList.In(s.db)
			s.must(err)
			return func(key int64) error { return l.Append(key, key) }, op(l)
		})
	}
	one := []int64{0}
	with("listUpdate", func(l store.ListState[int64, int64]) func(int64) error {
		return func(key int64) error {
			one[0] = key
			return l.Replace(key, one)
		}
	})
	with("listAppend", func(l store.ListState[int64, int64]) func(int64) error {
		return func(key int64) error { return l.Append(key, key) }
	})
	with("listGetAndIterate", func(l store.ListState[int64, int64]) func(int64) error {
		return func(key int64) error {
			all := l.All(key)
			for range all.Values() {
			}
			return all.Err()
		}
	})
}

func BenchmarkTtlMapState(b *testing.B) {
	declare := func(o store.Option) store.Spec {
		return store.Map("m", serde.Int64(), serde.Int64(), serde.Float64(), o)
	}
	with := func(name string, op func(m store.MapState[int64, int64, float64]) func(key, sub int64) error) {
		onTTL(b, name, declare, func(s *stateBench) (func(int64) error, func(int64) error) {
			m, err := benchMap.In(s.db)
			s.must(err)
			do := op(m)
			return func(key int64) error { return m.Put(key/benchMapKeys, key%benchMapKeys, 1) },
				func(key int64) error { return do(key/benchMapKeys, key%benchMapKeys) }
		})
	}
	type maps = store.MapState[int64, int64, float64]
	with("mapUpdate", func(m maps) func(key, sub int64) error {
		return func(key, sub int64) error { return m.Put(key, sub, 2) }
	})
	with("mapGet", func(m maps) func(key, sub int64) error {
		return func(key, sub int64) error {
			_, _, err := m.Get(key, sub)
			return err
		}
	})
	with("mapIterator", func(m maps) func(key, sub int64) error {
		return func(key, _ int64) error {
			scan := m.All(key)
			for range scan.Rows() {
			}
			return scan.Err()
		}
	})
}

// BenchmarkTtlCleanup is valueUpdate with each way to clean up.
func BenchmarkTtlCleanup(b *testing.B) {
	p := ttl.AfterWrite(benchLife * time.Millisecond)
	for name, p := range map[string]ttl.Policy{"none": ttl.Disabled(), "off": p.NoCleanup(), "walk": p, "buckets": p.Buckets(benchLife / 10 * time.Millisecond)} {
		b.Run(name, func(b *testing.B) {
			on(b, store.Value("v", serde.Int64(), serde.Int64(), store.WithTTL(p)), func(s *stateBench) func(int64) error {
				v, err := benchValue.In(s.db)
				s.must(err)
				n := int64(0)
				keys := int64(len(s.keys))
				return func(key int64) error {
					s.db.SetClocks(n*benchLife/keys, -1)
					n++
					if s.db.SweepDue() {
						if _, _, err := s.db.Sweep(512); err != nil {
							return err
						}
					}
					return v.Put(key, n)
				}
			})
		})
	}
}
