// Package sysfile reads and writes small files with as few system calls as there
// can be. [os.OpenFile] asks the kernel six more questions about every file, and
// in gVisor each of them takes as long as reading it: some 50 µs.
package sysfile

import (
	"errors"
	"io/fs"
	"os"

	"golang.org/x/sys/unix"
)

// retry repeats f while a signal interrupts it.
func retry(f func() (int, error)) (int, error) {
	for {
		n, err := f()
		if !errors.Is(err, unix.EINTR) {
			return n, err
		}
	}
}

// open is open(2).
func open(path string, flag int, perm uint32) (int, error) {
	fd, err := retry(func() (int, error) { return unix.Open(path, flag|unix.O_CLOEXEC, perm) })
	if err != nil {
		return -1, &fs.PathError{Op: "open", Path: path, Err: err}
	}
	return fd, nil
}

// Open is [os.OpenFile] for files that never block, so without deadlines.
func Open(path string, flag int, perm uint32) (*os.File, error) {
	fd, err := open(path, flag, perm)
	if err != nil {
		return nil, err
	}
	return os.NewFile(uintptr(fd), path), nil
}

// Read returns the contents of the file at path, at most limit bytes of them.
func Read(path string, limit int) ([]byte, error) {
	fd, err := open(path, unix.O_RDONLY, 0)
	if err != nil {
		return nil, err
	}
	defer unix.Close(fd) //nolint:errcheck // nothing was written
	buf := make([]byte, min(limit, 4096))
	n := 0
	for {
		m, err := retry(func() (int, error) { return unix.Read(fd, buf[n:]) })
		if err != nil {
			return nil, &fs.PathError{Op: "read", Path: path, Err: err}
		}
		n += m
		switch {
		case m == 0 || n == limit:
			return buf[:n], nil
		case n == len(buf):
			buf = append(buf, make([]byte, min(limit, 2*n)-n)...)
		}
	}
}

// Write makes content the contents of the file at path, which is made with perm
// if need be.
func Write(path string, content []byte, perm uint32) error {
	fd, err := open(path, unix.O_WRONLY|unix.O_CREAT|unix.O_TRUNC, perm)
	if err != nil {
		return err
	}
	for len(content) > 0 && err == nil {
		var n int
		n, err = retry(func() (int, error) { return unix.Write(fd, content) })
		content = content[max(0, n):]
	}
	if err = errors.Join(err, unix.Close(fd)); err != nil {
		return &fs.PathError{Op: "write", Path: path, Err: err}
	}
	return nil
}
