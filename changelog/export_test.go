package changelog

import (
	"bytes"
	"encoding/json"
)

// SealForTest appends the checksum.
func SealForTest(b []byte) []byte { return seal(b, 0) }

// ApplyRegistryForTest decodes one registry record.
func ApplyRegistryForTest(key string, value []byte) error {
	g := newRegistry()
	return g.apply(key, value)
}

// ParseManifestForTest decodes a manifest file, and goes behind the checksum where that is all that is wrong.
func ParseManifestForTest(text []byte) (*Manifest, error) {
	var env manifestEnvelope
	var compact bytes.Buffer
	if json.Unmarshal(text, &env) == nil && json.Compact(&compact, env.Manifest) == nil {
		env.Checksum = manifestChecksum(compact.Bytes())
		if again, err := json.Marshal(env); err == nil {
			text = again
		}
	}
	return parseManifest("fuzz", text)
}

// WriteErrorForTest says why a path cannot be written.
func WriteErrorForTest(path string, err error) error { return writeError(path, err) }

// EscapeNameForTest and UnescapeNameForTest are the way of a name into a path and back.
func EscapeNameForTest(name string) string { return escapeName(name) }

func UnescapeNameForTest(s string) (string, bool) { return unescapeName(s) }

// ReservedForTest is what the restorer holds.
func (r *Restorer) ReservedForTest() int64 {
	held := make(chan int64, 1)
	if !r.send(func() { held <- r.reserved }) {
		return 0
	}
	return <-held
}

// ClipIDForTest is how a codec's id is written.
func ClipIDForTest(id string) string { return clipID(id) }
