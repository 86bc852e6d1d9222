package main

import (
	"bytes"
	"fmt"
	"os"
	"syscall"
	"time"
)

// The variable by which a process and all that it starts are known to belong together.
const markName = "OUTRIGGER_BRIDGE_PROCESS"

// Same numbers on amd64 and arm64 (pidfd_open(2), pidfd_send_signal(2)).
const (
	sysPidfdSendSignal = 424
	sysPidfdOpen       = 434
)

const (
	strayRounds = 20
	strayPause  = 5 * time.Millisecond
)

// MarkOf is unique among all processes that run now, whichever bridge started them.
func markOf(number int64) string {
	return fmt.Sprintf("%s=%d.%x.%d", markName, os.Getpid(), started.UnixNano(), number)
}

var started = time.Now()

// EndStrays kills what a process started in groups of its own, as browsers and daemons do, and left behind. They are known
// by the mark in their environment, so one that has cleared it goes on. Returns how many it found.
func endStrays(mark string) int {
	killed := make(map[int]bool)
	for range strayRounds {
		found := false
		for _, pid := range processes() {
			if pid != os.Getpid() && killMarked(pid, mark) {
				found = true
				killed[pid] = true
			}
		}
		if !found {
			break
		}
		time.Sleep(strayPause) // until the kernel is done with them
	}
	return len(killed)
}

func killMarked(pid int, mark string) bool {
	if !isMarked(pid, mark) {
		return false
	}
	fd, _, errno := syscall.Syscall(sysPidfdOpen, uintptr(pid), 0, 0)
	if errno != 0 {
		// No such call here (gVisor, Linux before 5.3): the number was right an instant ago.
		return errno == syscall.ENOSYS && syscall.Kill(pid, syscall.SIGKILL) == nil
	}
	defer syscall.Close(int(fd))
	// The number may have been given to another process between the look and the opening, not after.
	if !isMarked(pid, mark) {
		return false
	}
	_, _, errno = syscall.Syscall6(sysPidfdSendSignal, fd, uintptr(syscall.SIGKILL), 0, 0, 0, 0)
	return errno == 0
}

func isMarked(pid int, mark string) bool {
	// Empty for zombies, unreadable for processes of other users and those that hide it.
	environment, err := os.ReadFile(fmt.Sprintf("/proc/%d/environ", pid))
	if err != nil {
		return false
	}
	for _, entry := range bytes.Split(environment, []byte{0}) {
		if string(entry) == mark {
			return true
		}
	}
	return false
}
