package main

import (
	"errors"
	"io"
	"math"
	"net"
	"os"
	"os/signal"
	"sync"
	"syscall"
	"time"
)

const acceptPause = 100 * time.Millisecond

// Same number on amd64 and arm64 (close_range(2)).
const (
	sysCloseRange     = 436
	closeRangeCloexec = 4
)

// A server is the bridge at work.
type server struct {
	options     *serveOptions
	file        string // what the command was found to be
	environment *environment
	children    *children
	hangups     *hangupWatch
	log         *log
	stopping    chan struct{} // closed when the processes are to be ended in order
	hurry       chan struct{} // closed when they are to be killed
}

// Serve listens until SIGTERM, ends every process and returns. A command that cannot run is an error before anybody can
// connect; what goes wrong with one process later is told on stderr and ends that connection only.
func serve(options *serveOptions, stderr io.Writer) error {
	signals := make(chan os.Signal, 2)
	signal.Notify(signals, syscall.SIGTERM, syscall.SIGINT, syscall.SIGHUP)
	// A reader of our stderr that is gone must not end us. Not ignored, since processes would inherit that.
	signal.Notify(make(chan os.Signal, 1), syscall.SIGPIPE)
	file, err := lookUp(options.command[0], options.directory, os.Getenv("PATH"))
	if err != nil {
		return err
	}
	// What we were given beyond stdin, stdout and stderr is not for the processes. (Linux before 5.11 cannot.)
	_, _, _ = syscall.RawSyscall(sysCloseRange, 3, math.MaxUint32, closeRangeCloexec)
	// Core dumps would write secrets to a disk. Inherited.
	_ = syscall.Setrlimit(syscall.RLIMIT_CORE, &syscall.Rlimit{})
	hangups, err := newHangupWatch()
	if err != nil {
		return fail(exitFailed, "cannot watch connections: %v", err)
	}
	listener, err := listen(options.socket)
	if err != nil {
		return err
	}
	s := &server{
		options:     options,
		file:        file,
		environment: &environment{own: os.Environ(), files: options.env, folders: options.envFrom, keep: options.keep},
		children:    newChildren(),
		hangups:     hangups,
		log:         newLog(stderr),
		stopping:    make(chan struct{}),
		hurry:       make(chan struct{}),
	}
	s.log.printf("version %s serves %s (%s) on %s", version, options.command[0], file, options.socket)
	var running sync.WaitGroup
	accepting := make(chan error, 1)
	go func() { accepting <- s.accept(listener, &running) }()
	select {
	case received := <-signals:
		s.log.printf("%s: ending every process", signalName(received.(syscall.Signal)))
	case err = <-accepting:
	}
	close(s.stopping)
	_ = listener.Close() // and removes the socket
	if err == nil {
		<-accepting
	}
	ended := make(chan struct{})
	go func() {
		running.Wait()
		close(ended)
	}()
	s.drain(ended, signals)
	s.log.close()
	return err
}

// Drain waits for the processes; another signal kills them.
func (s *server) drain(ended <-chan struct{}, signals <-chan os.Signal) {
	bound := time.NewTimer(s.options.stdinGrace + s.options.termGrace + killGrace + 2*readerPatience)
	defer bound.Stop()
	for {
		select {
		case <-ended:
			s.log.printf("no process is left")
			return
		case <-signals:
			if !isClosed(s.hurry) {
				close(s.hurry)
			}
		case <-bound.C:
			s.log.printf("some processes do not end; leaving them")
			return
		}
	}
}

// Accept takes connections until the bridge is stopped. Above the limit of processes the next one waits here, and those
// after it where the kernel keeps them: the other end has a bound on how long it waits for an answer.
func (s *server) accept(listener *net.UnixListener, running *sync.WaitGroup) error {
	slots := make(chan struct{}, s.options.maxProcesses)
	var number int64
	for {
		connection, err := listener.AcceptUnix()
		if err != nil {
			if isClosed(s.stopping) {
				return nil
			}
			if !passing(err) {
				return fail(exitFailed, "cannot accept connections: %v", cause(err))
			}
			s.log.printf("a connection could not be accepted: %v", cause(err))
			within(s.stopping, acceptPause)
			continue
		}
		number++
		select {
		case slots <- struct{}{}:
		default:
			s.log.printf("connection %d waits: %d processes run (--max-processes)", number, s.options.maxProcesses)
			select {
			case slots <- struct{}{}:
			case <-s.stopping:
				_ = connection.Close()
				return nil
			}
		}
		running.Add(1)
		go func(number int64) {
			defer running.Done()
			defer func() { <-slots }()
			s.handle(connection, number)
		}(number)
	}
}

// Passing are the errors of accept(2) after which it may go on.
func passing(err error) bool {
	for _, kind := range []error{syscall.EMFILE, syscall.ENFILE, syscall.ENOBUFS, syscall.ENOMEM, syscall.ECONNABORTED} {
		if errors.Is(err, kind) {
			return true
		}
	}
	return false
}
