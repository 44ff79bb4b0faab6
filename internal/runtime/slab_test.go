package runtime

import "testing"

// One small epoch gives nothing back, many do, and what is given back can be taken again.
func TestSlabKeepsWhatEpochsNeed(t *testing.T) {
	var s slab
	fill := func(chunks int) {
		for range chunks * slabChunk {
			s.take()
		}
		s.reset()
	}
	fill(100)
	first := s.at(0)
	fill(1)
	if len(s.chunks) != 100 {
		t.Errorf("one small epoch left %d of 100 chunks", len(s.chunks))
	}
	for range 200 {
		fill(1)
	}
	if len(s.chunks) > 8 {
		t.Errorf("200 small epochs left %d chunks", len(s.chunks))
	}
	for _, chunk := range s.chunks[len(s.chunks):cap(s.chunks)] {
		if chunk != nil {
			t.Fatal("chunks that were given back are still held")
		}
	}
	fill(3)
	if s.at(0) != first || s.take().Topic != "" {
		t.Error("the first chunk was not used again")
	}
}
