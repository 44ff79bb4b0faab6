package registry_test

import (
	"bytes"
	"testing"

	"github.com/twmb/franz-go/pkg/sr"

	"github.com/millrace-io/millrace/internal/fault"
	"github.com/millrace-io/millrace/serde/registry"
)

// The frame is what others write and read.
func FuzzFrame(f *testing.F) {
	f.Add([]byte{0, 0, 0, 0, 1, 'x'})
	f.Add([]byte{1, 0, 0, 0, 1})
	f.Add([]byte{0, 255, 255, 255, 255})
	f.Add([]byte(nil))
	f.Fuzz(func(t *testing.T, src []byte) {
		id, value, err := registry.ParseFrame(src, "test")
		theirs, rest, theirErr := new(sr.ConfluentHeader).DecodeID(src)
		if (err == nil) != (theirErr == nil) || err == nil && (id != theirs || !bytes.Equal(value, rest)) {
			t.Fatalf("% x is %d, %v, and to others %d, %v", src, id, err, theirs, theirErr)
		}
		if err != nil {
			if fault.Code(err) != "schema/frame" {
				t.Fatal(err)
			}
			return
		}
		if again := append(registry.AppendFrame(nil, id), value...); !bytes.Equal(again, src) {
			t.Fatalf("% x became % x", src, again)
		}
	})
}
