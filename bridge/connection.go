package main

import (
	"errors"
	"fmt"
	"net"
	"os"
	"syscall"
	"time"
)

const (
	// The exit usually follows the end of stdout within this time, and then it is the exit that is told.
	exitFollows = 20 * time.Millisecond
	// How long a process in an uninterruptible state is waited for after SIGKILL.
	killGrace = 2 * time.Second
	// How long the reader of a connection, or of our stderr, is waited for when nobody needs its process any more.
	readerPatience = time.Second
)

// Handle gives a connection its process and returns when both are gone.
func (s *server) handle(connection *net.UnixConn, number int64) {
	defer connection.Close()
	if hungUp(connection) {
		return // gave up while it waited its turn
	}
	mark := markOf(number)
	process, pipes, redactor, err := s.start(mark)
	if err != nil {
		s.log.printf("connection %d is closed: %v", number, err)
		return
	}
	defer pipes.close()
	began := time.Now()
	s.log.printf("process %d (pid %d) started", number, process.pid)
	gone, key, err := s.hangups.add(connection)
	if err != nil {
		s.log.printf("process %d cannot be watched: %v", number, err)
		process.signal(syscall.SIGKILL)
	}
	defer s.hangups.forget(key, false)
	pump := startPump(connection, pipes)
	relayed, over := make(chan struct{}), make(chan struct{})
	defer close(over)
	go func() {
		defer close(relayed)
		relayLines(pipes.stderr, redactor.redact, func(line []byte) { s.log.relay(line, over) })
	}()

	why := s.await(process, pump, gone)
	if why != "" && !s.end(process, pump, gone) {
		s.log.printf("process %d (pid %d) does not end even by SIGKILL (%s); it is left to itself", number, process.pid, why)
		go func() {
			<-process.exited
			process.reap()
		}()
		return
	}
	process.reap()
	strays := endStrays(mark)
	pump.rest()
	s.deliver(pump, gone)
	within(relayed, readerPatience)

	line := fmt.Sprintf("process %d (pid %d) %s after %.1f s", number, process.pid, process.status, time.Since(began).Seconds())
	if why != "" {
		line += ", as " + why
	}
	if strays > 0 {
		line += fmt.Sprintf("; it left %d other processes behind, which were killed", strays)
	}
	s.log.printf("%s", line)
}

// Start makes a process with the environment of this moment.
func (s *server) start(mark string) (*child, *pipes, *redactor, error) {
	variables, secrets, err := s.environment.read()
	if err != nil {
		return nil, nil, nil, err
	}
	pipes, err := newPipes()
	if err != nil {
		return nil, nil, nil, fmt.Errorf("no pipes: %w", err)
	}
	process, err := s.children.start(s.file, s.options.command, append(variables, mark), s.options.directory, pipes.theirs)
	pipes.handed()
	if err != nil {
		pipes.close()
		return nil, nil, nil, s.startError(err)
	}
	return process, pipes, newRedactor(secrets), nil
}

func (s *server) startError(err error) error {
	why := err.Error()
	switch {
	case errors.Is(err, syscall.ENOENT):
		_, statErr := os.Stat(s.file)
		_, directoryErr := os.Stat(s.options.directory)
		switch {
		case s.options.directory != "" && directoryErr != nil:
			why = fmt.Sprintf("the working directory %s is gone", s.options.directory)
		case statErr == nil:
			why = "the file exists, but its interpreter or its dynamic loader does not"
		}
	case errors.Is(err, syscall.ENOEXEC):
		why = "it is no program for this machine: built for another processor, or a script without #! in its first line"
	case errors.Is(err, syscall.EACCES):
		why = fmt.Sprintf("user %d may not execute it", os.Getuid())
	case errors.Is(err, syscall.E2BIG):
		why = "its arguments and environment are too large for the kernel (one variable takes at most 128 KiB)"
	case errors.Is(err, syscall.EAGAIN):
		why = "no more processes are allowed here (the pod's limit of processes)"
	}
	return fmt.Errorf("the command %s could not be started: %s", s.options.command[0], why)
}

// Await returns when the process has ended, with "", or when it is to be ended, with the reason.
func (s *server) await(process *child, pump *pump, gone <-chan struct{}) string {
	why := ""
	select {
	case <-process.exited:
		return ""
	case <-gone:
		return "its connection was closed"
	case <-s.stopping:
		return "the bridge is stopped"
	case <-pump.inputEnded:
		if !pump.broken {
			return "its input ended"
		}
		why = "it closed its stdin"
	case <-pump.outputEnded:
		why = "it closed its stdout"
	}
	if within(process.exited, exitFollows) {
		return ""
	}
	return why
}

// End stops a process as MCP says: stdin, TERM, KILL, each with its grace, for the whole group. While only our input has
// ended, it may go on answering: its grace begins anew as long as what it says is being read. False: it did not end.
func (s *server) end(process *child, pump *pump, gone <-chan struct{}) bool {
	over := make(chan struct{})
	go func() {
		// The rest of a group whose leader has ended gets the graces too, as long as it holds stdout.
		<-process.exited
		<-pump.outputEnded
		close(over)
	}()
	answering := isClosed(pump.inputEnded) && !pump.broken && !isClosed(pump.outputEnded)
	if !answering && !isClosed(gone) {
		_ = pump.pipes.stdin.Close()
	}
	grace := time.NewTimer(s.options.stdinGrace)
	defer grace.Stop()
	stopping := s.stopping
	seen := pump.delivered.Load()
	for waiting := true; waiting; {
		select {
		case <-over:
			return true
		case <-gone:
			gone, answering = nil, false
		case <-stopping:
			stopping, answering = nil, false
			_ = pump.pipes.stdin.Close()
		case <-s.hurry:
			waiting = false
		case <-grace.C:
			if now := pump.delivered.Load(); answering && now != seen {
				seen = now
				grace.Reset(s.options.stdinGrace)
			} else {
				waiting = false
			}
		}
	}
	_ = pump.pipes.stdin.Close()
	process.signal(syscall.SIGTERM)
	grace.Reset(s.options.termGrace)
	select {
	case <-over:
		return true
	case <-s.hurry:
	case <-grace.C:
	}
	process.signal(syscall.SIGKILL)
	return within(process.exited, killGrace)
}

// Deliver waits until the rest of stdout is read by the other end, as long as that is there and the bridge goes on.
func (s *server) deliver(pump *pump, gone <-chan struct{}) {
	select {
	case <-pump.outputEnded:
		return
	case <-gone:
	case <-s.stopping:
	}
	_ = pump.connection.SetWriteDeadline(time.Now().Add(readerPatience))
	<-pump.outputEnded
}

// Within waits for a channel to be closed, at most so long.
func within(closed <-chan struct{}, patience time.Duration) bool {
	timer := time.NewTimer(patience)
	defer timer.Stop()
	select {
	case <-closed:
		return true
	case <-timer.C:
		return isClosed(closed)
	}
}

func isClosed(channel <-chan struct{}) bool {
	select {
	case <-channel:
		return true
	default:
		return false
	}
}
