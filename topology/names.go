package topology

import (
	"fmt"
	"unicode"
	"unicode/utf8"
)

// Kafka takes at most this many characters for a topic name.
const topicNameMax = 249

// The app id is not known at Build: internal names must leave it this much. CheckApp looks at the real one.
const appMargin = 64

// nodeNameMax bounds a node's name: it travels in headers of dead letters and in metrics.
const nodeNameMax = 200

// illegalTopicName says what Kafka would not take about name, or "".
func illegalTopicName(name string) string {
	switch {
	case name == "":
		return "a topic needs a name"
	case name == "." || name == "..":
		return "Kafka reserves this name"
	case len(name) > topicNameMax:
		return fmt.Sprintf("has %d characters, and Kafka takes at most %d", len(name), topicNameMax)
	}
	return illegalChar(name)
}

// illegalInternalName says what is wrong with the name of a store or Through, of which "<app>-<name><suffix>" is made.
func illegalInternalName(name, suffix string) string {
	switch {
	case name == "":
		return "it owns bytes in Kafka and needs a name"
	case name == "." || name == "..":
		return "Kafka reserves this name"
	case len(name)+len(suffix)+1+appMargin > topicNameMax:
		return fmt.Sprintf("has %d characters: its topic <app>-<name>%s has at most %d, of which %d are kept for the application's id",
			len(name), suffix, topicNameMax, appMargin)
	}
	return illegalChar(name)
}

func illegalChar(name string) string {
	for _, r := range name {
		ok := r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' || r == '.' || r == '_' || r == '-'
		if !ok {
			return fmt.Sprintf("holds %q, and Kafka takes letters, digits, '.', '_' and '-'", r)
		}
	}
	return ""
}

func illegalNodeName(name string) string {
	switch {
	case name == "":
		return "the name is empty"
	case len(name) > nodeNameMax:
		return fmt.Sprintf("has %d bytes, and at most %d are taken", len(name), nodeNameMax)
	case !utf8.ValidString(name):
		return "is not valid UTF-8"
	}
	for _, r := range name {
		if !unicode.IsPrint(r) || r == '"' || r == '`' {
			return fmt.Sprintf("holds %q", r)
		}
	}
	return ""
}

// clip keeps a value that goes into an error short.
func clip(s string) string {
	if len(s) <= 60 {
		return s
	}
	return s[:60] + "..."
}

const (
	changelogSuffix   = "-changelog"
	repartitionSuffix = "-repartition"
	globalSuffix      = "-global"
	tasksSuffix       = "-tasks"
)
