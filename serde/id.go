package serde

import (
	"fmt"
	"strings"
)

// ID returns the name s goes by on disk: what it says itself when it is Identified, else its Go type name with its package.
// The name is compared at start, so renaming the type of a codec that is not Identified reads as another codec.
func ID[T any](s Serde[T]) string {
	if named, ok := s.(Identified); ok {
		return named.ID()
	}
	return strings.TrimPrefix(fmt.Sprintf("%T", s), "*")
}
