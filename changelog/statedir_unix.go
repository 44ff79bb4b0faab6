//go:build unix

package changelog

import (
	"io/fs"
	"os"
	"syscall"
)

// flock takes the lock of a file without waiting. It goes with the file descriptor, so with the process.
func flock(f *os.File) error {
	return syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB)
}

func owner(info fs.FileInfo) (uid int, ok bool) {
	st, ok := info.Sys().(*syscall.Stat_t)
	if !ok {
		return 0, false
	}
	return int(st.Uid), true
}
