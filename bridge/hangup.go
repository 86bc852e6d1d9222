package main

import (
	"net"
	"sync"
	"syscall"
	"unsafe"
)

// A hangupWatch tells when the other end of a connection is gone for good. Reading does not: it sees the end of the input
// where only that half was closed, and sees nothing while a server that does not read keeps us from reading on. The kernel
// reports EPOLLHUP for a socket whose both directions are shut.
type hangupWatch struct {
	epoll int
	mu    sync.Mutex
	next  int32
	gone  map[int32]chan struct{}
}

func newHangupWatch() (*hangupWatch, error) {
	epoll, err := syscall.EpollCreate1(syscall.EPOLL_CLOEXEC)
	if err != nil {
		return nil, err
	}
	w := &hangupWatch{epoll: epoll, gone: make(map[int32]chan struct{})}
	go w.run()
	return w, nil
}

func (w *hangupWatch) run() {
	events := make([]syscall.EpollEvent, 32)
	for {
		count, err := syscall.EpollWait(w.epoll, events, -1)
		if err != nil && err != syscall.EINTR {
			return
		}
		for _, event := range events[:max(count, 0)] {
			w.forget(event.Fd, true)
		}
	}
}

// Add returns a channel that is closed when the connection is gone, and the key for forget. The kernel forgets a
// connection that is closed by itself.
func (w *hangupWatch) add(connection *net.UnixConn) (<-chan struct{}, int32, error) {
	gone := make(chan struct{})
	w.mu.Lock()
	w.next++
	key := w.next
	w.gone[key] = gone
	w.mu.Unlock()
	raw, err := connection.SyscallConn()
	if err == nil {
		// Nothing is asked for: errors and hang-ups are always reported.
		event := syscall.EpollEvent{Events: syscall.EPOLLONESHOT, Fd: key}
		inner := raw.Control(func(fd uintptr) { err = syscall.EpollCtl(w.epoll, syscall.EPOLL_CTL_ADD, int(fd), &event) })
		if inner != nil {
			err = inner
		}
	}
	if err != nil {
		w.forget(key, false)
		return nil, 0, err
	}
	return gone, key, nil
}

// HungUp tells whether the other end is gone by now.
func hungUp(connection *net.UnixConn) bool {
	raw, err := connection.SyscallConn()
	if err != nil {
		return true
	}
	var revents int16
	_ = raw.Control(func(fd uintptr) {
		poll := struct {
			fd              int32
			events, revents int16
		}{fd: int32(fd)}
		var now syscall.Timespec
		_, _, _ = syscall.Syscall6(syscall.SYS_PPOLL, uintptr(unsafe.Pointer(&poll)), 1, uintptr(unsafe.Pointer(&now)), 0, 0, 0)
		revents = poll.revents
	})
	return revents&syscall.EPOLLHUP != 0
}

func (w *hangupWatch) forget(key int32, hungUp bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if gone := w.gone[key]; gone != nil {
		delete(w.gone, key)
		if hungUp {
			close(gone)
		}
	}
}
