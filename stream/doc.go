// Package stream is the language in which most topologies are written: streams of records, tables of the latest value
// per key, and the verbs between them.
//
// A method keeps the types, a function changes them: Filter, Merge, To, Count are methods, Map, GroupBy, Aggregate, Join
// are functions. Topics and stores are nouns: values declared once, with their types and codecs, and used by sources,
// sinks, verbs and tests alike. Whoever owns bytes is named by the user: stores, and the Through topics that repartition a
// stream. Nodes without bytes get names of their own; Named gives them better ones.
//
// Nothing fails while a topology is written: Build returns every mistake, each with the line that made it.
//
// # Nulls
//
// A record whose value is null in Kafka is a tombstone: "this key is gone". A function of the user's is handed the zero
// value for a null key or value (nil, for the types of serde.Optional). No stateless verb turns a null value into a
// value: MapValues and FlatMapValues pass it on without calling their function, Map and FlatMap take only the keys from
// theirs; to give a null a meaning use Process. Filter, FilterNot, Peek and SelectKey see it like any other.
//
// Verbs that need a key drop records without one and count them: Count, Reduce, Aggregate, ToTable, TableFrom and Join.
// LeftJoin keeps them, since it can answer without a table row. Count, Reduce, Aggregate and both joins drop records with a
// null value; a table deletes the key's row.
//
// # Times and headers
//
// Stateless verbs keep a record's event time and headers. What Count, Reduce and Aggregate say about a key has the
// greatest event time of the records in it; the result of a join has the time of the stream's record; neither has
// headers. Tables take updates in the order of arrival, also when their times run backwards.
//
// # Keys
//
// Verbs that meet records by key need equal keys to be in one task. A stream whose key may have changed (Map, FlatMap,
// SelectKey, Process) must go through a repartition topic first: GroupBy, or Repartition. Build refuses it otherwise.
package stream
