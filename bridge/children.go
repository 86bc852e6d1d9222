package main

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"strconv"
	"sync"
	"syscall"
	"unsafe"
)

// Of waitid(2) and prctl(2); the syscall package lacks them.
const (
	waitAll              = 0 // P_ALL
	waitPid              = 1 // P_PID
	codeExited           = 1 // CLD_EXITED
	prSetChildSubreaper  = 36
	maxOrphansOfOneCheck = 10_000
)

// Children are the processes that we started and those that they left to us. A child that has ended stays a zombie until
// its owner reaps it: as long as it does, its number and its group's cannot be somebody else's, and a signal to the group
// hits nobody but it. Orphans, which the kernel gives to us as PID 1 or subreaper, are reaped at once.
type children struct {
	mu   sync.Mutex // held over fork and wait, so that neither sees half of the other
	live map[int]*child
}

// A child leads its own session and group.
type child struct {
	pid    int
	exited chan struct{}
	// How it ended; set before exited is closed.
	status exitStatus
	reaped bool
	family *children
}

// An exitStatus is how a process ended: by itself with a code, or by a signal.
type exitStatus struct {
	code   int
	signal syscall.Signal
}

func (s exitStatus) String() string {
	if s.signal == 0 {
		return fmt.Sprintf("exited with status %d", s.code)
	}
	return "was killed by " + signalName(s.signal)
}

// NewChildren begins to look after processes, for the rest of the program's life.
func newChildren() *children {
	c := &children{live: make(map[int]*child)}
	// Where we are not PID 1, orphans would go to somebody else. Older kernels and PID 1 need nothing.
	_, _, _ = syscall.RawSyscall6(syscall.SYS_PRCTL, prSetChildSubreaper, 1, 0, 0, 0, 0)
	ended := make(chan os.Signal, 1)
	signal.Notify(ended, syscall.SIGCHLD)
	go func() {
		for range ended {
			c.look()
		}
	}()
	return c
}

// Start runs a program with the given descriptors as stdin, stdout and stderr. The error is exec's own.
func (c *children) start(file string, arguments, environment []string, directory string, files [3]int) (*child, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	pid, err := syscall.ForkExec(file, arguments, &syscall.ProcAttr{
		Dir:   directory,
		Env:   environment,
		Files: []uintptr{uintptr(files[0]), uintptr(files[1]), uintptr(files[2])},
		Sys:   &syscall.SysProcAttr{Setsid: true},
	})
	if err != nil {
		return nil, err
	}
	started := &child{pid: pid, exited: make(chan struct{}), family: c}
	c.live[pid] = started
	return started, nil
}

// Look notes which children have ended and reaps the orphans that have.
func (c *children) look() {
	c.mu.Lock()
	defer c.mu.Unlock()
	for pid, one := range c.live {
		select {
		case <-one.exited:
			continue
		default:
		}
		if ended, status := peek(waitPid, pid); ended == pid {
			one.status = status
			close(one.exited)
		}
	}
	for range maxOrphansOfOneCheck {
		pid, _ := peek(waitAll, 0)
		if pid == 0 {
			return
		}
		if c.live[pid] != nil {
			// One of ours stands in front until its owner reaps it: look past it.
			c.reapBehind()
			return
		}
		wait(pid)
	}
}

func (c *children) reapBehind() {
	own := os.Getpid()
	for _, pid := range processes() {
		if c.live[pid] != nil {
			continue
		}
		if state, parent := stateOf(pid); state == 'Z' && parent == own {
			wait(pid)
		}
	}
}

// Signal goes to every process of the child's group, until it is reaped.
func (c *child) signal(number syscall.Signal) {
	c.family.mu.Lock()
	defer c.family.mu.Unlock()
	if !c.reaped {
		_ = syscall.Kill(-c.pid, number)
	}
}

// Reap ends what is left of the group and lets the kernel forget the child, which has exited.
func (c *child) reap() {
	c.family.mu.Lock()
	defer c.family.mu.Unlock()
	if c.reaped {
		return
	}
	_ = syscall.Kill(-c.pid, syscall.SIGKILL)
	wait(c.pid)
	c.reaped = true
	delete(c.family.live, c.pid)
}

// Siginfo is siginfo_t of a child's end, on 64-bit Linux.
type siginfo struct {
	_, _, code, _ int32
	pid           int32
	_             uint32
	status        int32
	_             [100]byte
}

// Peek tells which child has ended, and how, and leaves it a zombie. 0: none.
func peek(kind, pid int) (int, exitStatus) {
	var info siginfo
	for {
		_, _, errno := syscall.Syscall6(syscall.SYS_WAITID, uintptr(kind), uintptr(pid), uintptr(unsafe.Pointer(&info)),
			syscall.WEXITED|syscall.WNOHANG|syscall.WNOWAIT, 0, 0)
		if errno == syscall.EINTR {
			continue
		}
		if errno != 0 {
			return 0, exitStatus{}
		}
		break
	}
	if info.code == codeExited {
		return int(info.pid), exitStatus{code: int(info.status)}
	}
	return int(info.pid), exitStatus{signal: syscall.Signal(info.status)}
}

func wait(pid int) {
	for {
		if _, err := syscall.Wait4(pid, nil, syscall.WNOHANG, nil); !errors.Is(err, syscall.EINTR) {
			return
		}
	}
}

// Processes are the numbers of all that /proc shows.
func processes() []int {
	opened, err := os.Open("/proc")
	if err != nil {
		return nil
	}
	defer opened.Close()
	names, _ := opened.Readdirnames(-1)
	var found []int
	for _, name := range names {
		if pid, err := strconv.Atoi(name); err == nil {
			found = append(found, pid)
		}
	}
	return found
}

// StateOf reads the state letter and the parent of a process; 0 where it is gone.
func stateOf(pid int) (state byte, parent int) {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return 0, 0
	}
	// The name, in parentheses, may hold anything.
	fields := bytes.Fields(text[bytes.LastIndexByte(text, ')')+1:])
	if len(fields) < 2 {
		return 0, 0
	}
	parent, _ = strconv.Atoi(string(fields[1]))
	return fields[0][0], parent
}

// SignalName is the name that people know it by.
func signalName(number syscall.Signal) string {
	if name, known := signalNames[number]; known {
		return name
	}
	return fmt.Sprintf("signal %d", int(number))
}

var signalNames = map[syscall.Signal]string{
	syscall.SIGABRT: "SIGABRT", syscall.SIGALRM: "SIGALRM", syscall.SIGBUS: "SIGBUS", syscall.SIGFPE: "SIGFPE",
	syscall.SIGHUP: "SIGHUP", syscall.SIGILL: "SIGILL", syscall.SIGINT: "SIGINT", syscall.SIGIO: "SIGIO",
	syscall.SIGKILL: "SIGKILL", syscall.SIGPIPE: "SIGPIPE", syscall.SIGPROF: "SIGPROF", syscall.SIGPWR: "SIGPWR",
	syscall.SIGQUIT: "SIGQUIT", syscall.SIGSEGV: "SIGSEGV", syscall.SIGSYS: "SIGSYS", syscall.SIGTERM: "SIGTERM",
	syscall.SIGTRAP: "SIGTRAP", syscall.SIGUSR1: "SIGUSR1", syscall.SIGUSR2: "SIGUSR2", syscall.SIGVTALRM: "SIGVTALRM",
	syscall.SIGXCPU: "SIGXCPU", syscall.SIGXFSZ: "SIGXFSZ",
}
