// Package txn is one Kafka transaction after another, for one transactional id: begin, send, commit, abort, and find out
// what became of a commit whose answer was lost. It decides whether a transaction may commit; others decide when, and
// what is in it. A building block; most programs never import it.
//
// It follows KIP-98, KIP-129, KIP-447 and KIP-890 (transaction.version 2).
//
// A Producer owns one transactional id. Begin gives a Txn, which ends in exactly one Commit or Abort:
//
//	            Begin                      Commit
//	+--------+ ------> +------+ ----------------------> +--------+
//	|  idle  |         | open |                         | ending |
//	+--------+ <--+    +------+                         +--------+
//	              |       |                              |  |  |
//	              |       | Abort        refused before  |  |  | EndTxn sent, but
//	              |       v              EndTxn was sent |  |  | no answer to trust
//	              |   +----------+                       |  |  v
//	              +---| aborting | <---------------------+  | +-----------+
//	   Aborted    |   +----------+                          | | resolving |
//	              |                           EndTxn said   | +-----------+
//	              |                              yes        |   |
//	              +-----------------------------------------+---+
//	                                   Committed              Committed, Aborted or Lost
//
// Whatever leaves a doubt about the client (a producer id that changed inside the transaction, a refused abort, an error
// nobody has classified) throws the client away; the next Begin makes another and, by initialising the id, fences what the
// old one may have left open. What each error means is one table, in errors.go.
package txn
