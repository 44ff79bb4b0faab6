package runtime

import (
	"unsafe"

	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/millrace-io/millrace/internal/task"
)

// slab holds the records of one epoch on their way to the producer. kgo keeps a pointer to each until the epoch's end, so
// records live in chunks that never move and are used again once the epoch is over.
type slab struct {
	chunks [][]produced
	used   int // records in use
	usual  int // chunks: the most an epoch of late has used; one in sixteen is forgotten with each that uses less
}

// produced is one record with where it came from, should the broker refuse it after the fact.
type produced struct {
	kgo.Record
	run    *taskRun // nil for records of ours that no input record caused
	origin task.Origin
	sink   int
	store  string // of changelog records
}

const slabChunk = 1024

// producedBytes is what a record costs from here to the broker's answer, beside its key, value and headers: here, and in the
// client's batches.
const producedBytes = int64(unsafe.Sizeof(produced{})) + 64

// bytes is the memory of the records in use.
func (s *slab) bytes() int64 { return int64(s.used) * producedBytes }

// take returns a zeroed record.
func (s *slab) take() *produced {
	c := s.used / slabChunk
	if c == len(s.chunks) {
		s.chunks = append(s.chunks, make([]produced, slabChunk))
	}
	p := &s.chunks[c][s.used%slabChunk]
	s.used++
	*p = produced{}
	return p
}

// at is the i-th record taken since the last reset.
func (s *slab) at(i int) *produced { return &s.chunks[i/slabChunk][i%slabChunk] }

// find returns the entry that r is part of. It is linear, and only used when a record failed.
func (s *slab) find(r *kgo.Record) *produced {
	for i := range s.used {
		if p := s.at(i); &p.Record == r {
			return p
		}
	}
	return nil
}

// reset makes every record free again. Records that hold on to the epoch's bytes are zeroed when they are taken; chunks
// that no epoch of late has needed are given back.
func (s *slab) reset() {
	s.usual = max((s.used+slabChunk-1)/slabChunk, s.usual-(s.usual+15)/16, 4)
	if len(s.chunks) > 2*s.usual {
		clear(s.chunks[s.usual:])
		s.chunks = s.chunks[:s.usual]
	}
	s.used = 0
}
