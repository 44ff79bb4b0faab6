// Package lint is the house's own rules, as tests: who may import whom, and what has no place in which room. Everything is parsed in
// process, so the go command's test cache sees every file that was read.
package lint
