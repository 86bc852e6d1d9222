package main

import (
	"os"
	"syscall"
)

// Pipes are the three between a process and us. A server gets pipes, not the socket itself: what it does to one of its
// ends (non-blocking mode, closing, opening /dev/stdout) then has no effect on the others, as under any other client.
type pipes struct {
	theirs                [3]int   // stdin, stdout, stderr of the process; blocking, closed once it runs
	stdin, stdout, stderr *os.File // our ends, driven by the runtime's poller
}

func newPipes() (*pipes, error) {
	p := &pipes{}
	var made []int
	for range 3 {
		var pair [2]int
		if err := syscall.Pipe2(pair[:], syscall.O_CLOEXEC); err != nil {
			for _, fd := range made {
				_ = syscall.Close(fd)
			}
			return nil, err
		}
		made = append(made, pair[0], pair[1])
	}
	for _, fd := range []int{made[1], made[2], made[4]} {
		_ = syscall.SetNonblock(fd, true)
	}
	p.theirs = [3]int{made[0], made[3], made[5]}
	p.stdin = os.NewFile(uintptr(made[1]), "stdin")
	p.stdout = os.NewFile(uintptr(made[2]), "stdout")
	p.stderr = os.NewFile(uintptr(made[4]), "stderr")
	return p, nil
}

// Handed closes the ends of the process, which has them now or was not started.
func (p *pipes) handed() {
	for _, fd := range p.theirs {
		_ = syscall.Close(fd)
	}
}

func (p *pipes) close() {
	_ = p.stdin.Close()
	_ = p.stdout.Close()
	_ = p.stderr.Close()
}
