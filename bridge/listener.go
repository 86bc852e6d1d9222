package main

import (
	"errors"
	"net"
	"os"
	"path/filepath"
	"syscall"
)

// The rights of the socket: its user and its group, which in a pod is the volume's fsGroup.
const socketUmask = 0o117

// Listen makes the socket. One that a killed bridge left is replaced; anything else under that name is refused.
func listen(path string) (*net.UnixListener, error) {
	path, err := filepath.Abs(path)
	if err != nil {
		return nil, fail(exitFailed, "cannot listen: %v", err)
	}
	if err := clear(path); err != nil {
		return nil, err
	}
	// By the umask, so that there is no moment with other rights. Nothing else runs yet.
	umask := syscall.Umask(socketUmask)
	listener, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
	syscall.Umask(umask)
	if err != nil {
		return nil, fail(exitFailed, "cannot listen on %s: %v", path, cause(err))
	}
	return listener, nil
}

// Clear removes a socket that nobody listens on any more.
func clear(path string) error {
	info, err := os.Lstat(path)
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fail(exitFailed, "cannot listen on %s: %v", path, reason(err))
	}
	if info.Mode().Type() != os.ModeSocket {
		return fail(exitFailed, "cannot listen on %s: there is a file that is no socket", path)
	}
	switch err := probe(path); err {
	case syscall.ECONNREFUSED:
	case syscall.ENOENT:
		return nil
	case nil, syscall.EPROTOTYPE:
		return fail(exitFailed, "cannot listen on %s: another program does", path)
	default:
		return fail(exitFailed, "cannot listen on %s: there is a socket that cannot be examined: %v", path, err)
	}
	if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
		return fail(exitFailed, "cannot listen on %s: a socket that nobody listens on cannot be removed: %v", path, reason(err))
	}
	return nil
}

// Probe asks the kernel whether a socket is bound to path without connecting to it, which would start a process there: with
// the wrong type of socket the answer is ECONNREFUSED where nobody is bound, EPROTOTYPE where somebody is.
func probe(path string) error {
	fd, err := syscall.Socket(syscall.AF_UNIX, syscall.SOCK_DGRAM|syscall.SOCK_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer syscall.Close(fd)
	return syscall.Connect(fd, &syscall.SockaddrUnix{Name: path})
}

// Cause is the innermost error, without the address and operation that the net package puts in front.
func cause(err error) error {
	for inner := errors.Unwrap(err); inner != nil; inner = errors.Unwrap(inner) {
		err = inner
	}
	return err
}
