package serde

// Empty is the codec of nothing at all: struct{} as no bytes. It is for stores whose keys say everything.
func Empty() Serde[struct{}] { return emptySerde{} }

type emptySerde struct{}

func (emptySerde) ID() string { return "empty" }
func (emptySerde) Width() int { return 0 }

func (emptySerde) Append(dst []byte, _ struct{}) ([]byte, error) { return dst, nil }

func (emptySerde) Decode(src []byte) (v struct{}, err error) {
	if len(src) != 0 {
		return v, wrongLength("empty", 0, len(src))
	}
	return v, nil
}
