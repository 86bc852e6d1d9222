package main

import (
	"errors"
	"net"
	"os"
	"sync/atomic"
	"time"
)

const (
	chunkSize = 32 << 10
	// After a process has ended its pipes hold what they hold. Whoever still has them open and says nothing for so long, or
	// more than a pipe can hold, is not the server any more.
	restIdle  = 200 * time.Millisecond
	restBytes = 1 << 20
)

// A pump carries the bytes of one connection: one buffer each way, so that a reader who is slow is waited for and nobody
// else notices.
type pump struct {
	connection *net.UnixConn
	pipes      *pipes
	// Closed when nothing more goes to stdin: the other end has shut its half, or stdin is broken.
	inputEnded chan struct{}
	// Set before inputEnded is closed: the process has closed its stdin.
	broken bool
	// Closed when all of stdout is delivered and our half is shut.
	outputEnded chan struct{}
	delivered   atomic.Int64
	resting     atomic.Bool
}

func startPump(connection *net.UnixConn, pipes *pipes) *pump {
	p := &pump{connection: connection, pipes: pipes, inputEnded: make(chan struct{}), outputEnded: make(chan struct{})}
	go p.input()
	go p.output()
	return p
}

func (p *pump) input() {
	buffer := make([]byte, chunkSize)
	open := true
	for {
		count, err := p.connection.Read(buffer)
		if count > 0 && open {
			if _, err := p.pipes.stdin.Write(buffer[:count]); err != nil {
				// Go on reading for nobody: what is unread when we close would reach the other end as an error.
				open = false
				p.broken = !errors.Is(err, os.ErrClosed)
				_ = p.pipes.stdin.Close()
				close(p.inputEnded)
			}
		}
		if err != nil {
			break
		}
	}
	if open {
		_ = p.pipes.stdin.Close()
		close(p.inputEnded)
	}
}

func (p *pump) output() {
	defer close(p.outputEnded)
	buffer := make([]byte, chunkSize)
	deaf := false
	rest, progress := 0, false
	for {
		count, err := p.pipes.stdout.Read(buffer)
		if count > 0 && !deaf {
			// A process is not hit by our loss of the connection: it is ended in order, and talks to nobody until then.
			_, failed := p.connection.Write(buffer[:count])
			deaf = failed != nil
		}
		p.delivered.Add(int64(count))
		progress = progress || count > 0
		if p.resting.Load() {
			rest += count
		}
		if errors.Is(err, os.ErrDeadlineExceeded) && progress && rest < restBytes {
			progress = false
			p.extend()
		} else if err != nil || rest >= restBytes {
			break
		}
	}
	_ = p.connection.CloseWrite()
}

// Rest is called when the process has ended: what is in its stdout is delivered, but nobody is waited for who still has it
// open.
func (p *pump) rest() {
	p.resting.Store(true)
	p.extend()
	_ = p.pipes.stderr.SetReadDeadline(time.Now().Add(restIdle))
}

func (p *pump) extend() { _ = p.pipes.stdout.SetReadDeadline(time.Now().Add(restIdle)) }
