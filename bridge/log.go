package main

import (
	"fmt"
	"io"
	"sync/atomic"
	"time"
)

const (
	logQueue = 64
	// How long the end of the program waits for a reader of the log who has stopped reading.
	logPatience = time.Second
)

// A log writes whole lines to our stderr, one system call each, so that those of several processes never mix. Nothing but
// a server's own stderr waits for a reader that is slow: our own lines are dropped then, and counted.
type log struct {
	lines   chan []byte
	done    chan struct{}
	dropped atomic.Int64
}

func newLog(out io.Writer) *log {
	l := &log{lines: make(chan []byte, logQueue), done: make(chan struct{})}
	go func() {
		defer close(l.done)
		for line := range l.lines {
			if line == nil {
				return
			}
			_, _ = out.Write(line)
			if count := l.dropped.Swap(0); count > 0 {
				_, _ = fmt.Fprintf(out, "outrigger-bridge: %d lines were dropped: nobody read them\n", count)
			}
		}
	}()
	return l
}

// Printf writes a line of our own, or drops it.
func (l *log) printf(format string, values ...any) {
	line := fmt.Appendf(nil, "outrigger-bridge: "+format+"\n", values...)
	select {
	case l.lines <- line:
	default:
		l.dropped.Add(1)
	}
}

// Relay writes a line of a server as soon as there is room, unless over is closed before. It takes over the bytes.
func (l *log) relay(line []byte, over <-chan struct{}) {
	select {
	case l.lines <- line:
	case <-over:
	}
}

// Close writes what is waiting, with bounded patience. Lines that come later are lost.
func (l *log) close() {
	timer := time.NewTimer(logPatience)
	defer timer.Stop()
	select {
	case l.lines <- nil:
	case <-timer.C:
		return
	}
	select {
	case <-l.done:
	case <-timer.C:
	}
}
