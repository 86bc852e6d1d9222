// Server is what the tests of the bridge run behind it. The first argument says what it does.
package main

import (
	"bufio"
	"bytes"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"strconv"
	"strings"
	"syscall"
	"time"
)

func main() {
	role, arguments := os.Args[1], os.Args[2:]
	switch role {
	case "echo": // what it reads, until the end; a line "exit N" ends it, "kill N" by a signal
		lines := bufio.NewScanner(os.Stdin)
		lines.Buffer(nil, 1<<24)
		for lines.Scan() {
			var number int
			if _, err := fmt.Sscanf(lines.Text(), "exit %d", &number); err == nil {
				os.Exit(number)
			}
			if _, err := fmt.Sscanf(lines.Text(), "kill %d", &number); err == nil {
				signal.Reset()
				_ = syscall.Kill(os.Getpid(), syscall.Signal(number))
				time.Sleep(time.Hour)
			}
			fmt.Println(lines.Text())
		}
	case "pid": // then as copy
		fmt.Println(os.Getpid())
		_, _ = io.Copy(os.Stdout, os.Stdin)
	case "copy":
		_, _ = io.Copy(os.Stdout, os.Stdin)
	case "environment": // one line a variable, and waits
		for _, entry := range os.Environ() {
			fmt.Println(entry)
		}
		fmt.Println("end")
		_, _ = io.Copy(io.Discard, os.Stdin)
	case "say": // bytes of stdout at once, then ends
		count, _ := strconv.Atoi(arguments[0])
		_, _ = os.Stdout.Write(bytes.Repeat([]byte("x"), count))
	case "flood": // for ever
		for {
			if _, err := os.Stdout.Write(bytes.Repeat([]byte("x"), 1<<16)); err != nil {
				os.Exit(3)
			}
		}
	case "late": // answers slowly after the end of its input
		text, _ := io.ReadAll(os.Stdin)
		for _, word := range strings.Fields(string(text)) {
			time.Sleep(150 * time.Millisecond)
			fmt.Println(word)
		}
	case "stubborn": // ignores the end of stdin and TERM
		signal.Ignore(syscall.SIGTERM)
		fmt.Println(os.Getpid())
		time.Sleep(time.Hour)
	case "on-term": // ignores the end of stdin, says when TERM comes
		received := make(chan os.Signal, 1)
		signal.Notify(received, syscall.SIGTERM)
		fmt.Println(os.Getpid())
		<-received
		fmt.Println("TERM")
		os.Exit(5)
	case "deaf": // does not read
		fmt.Println(os.Getpid())
		time.Sleep(time.Hour)
	case "mute": // closes its stdout and stays
		fmt.Println(os.Getpid())
		_ = os.Stdout.Close()
		time.Sleep(time.Hour)
	case "close-stdin":
		fmt.Println(os.Getpid())
		_ = os.Stdin.Close()
		time.Sleep(time.Hour)
	case "stderr":
		for _, line := range arguments {
			fmt.Fprintln(os.Stderr, line)
		}
	case "stderr-lines": // many, by halves
		count, _ := strconv.Atoi(arguments[0])
		for number := range count {
			fmt.Fprintf(os.Stderr, "%d-%d-begin", os.Getpid(), number)
			fmt.Fprintf(os.Stderr, "-end\n")
		}
		_, _ = io.Copy(io.Discard, os.Stdin)
	case "parent": // its child is of the same group ("group"), of its own session ("daemon"), or hidden too ("hidden")
		child := exec.Command(os.Args[0], "sleep")
		child.SysProcAttr = &syscall.SysProcAttr{Setsid: arguments[0] != "group"}
		child.Stdout, child.Stderr = os.Stdout, os.Stderr
		if arguments[0] != "daemon" {
			child.Env = []string{"NOTHING=of ours"}
		}
		if err := child.Start(); err != nil {
			panic(err)
		}
		fmt.Println(child.Process.Pid)
		if len(arguments) > 1 {
			os.Exit(0)
		}
		_, _ = io.Copy(io.Discard, os.Stdin)
	case "orphans": // leaves processes that end at once to whoever takes them
		count, _ := strconv.Atoi(arguments[0])
		for range count {
			middle := exec.Command(os.Args[0], "leave")
			if err := middle.Run(); err != nil {
				panic(err)
			}
		}
		fmt.Println("left")
		_, _ = io.Copy(io.Discard, os.Stdin)
		os.Exit(9)
	case "adopted": // leaves a process that stays, and tells its number
		if err := run("leave-sleeping"); err != nil {
			panic(err)
		}
		_, _ = io.Copy(io.Discard, os.Stdin)
	case "leave-sleeping":
		child := exec.Command(os.Args[0], "sleep")
		_ = child.Start()
		fmt.Println(child.Process.Pid)
	case "held": // a line: leaves processes that end at once; the end: exits, while a child holds its stdout
		child := exec.Command(os.Args[0], "sleep")
		child.Stdout = os.Stdout
		_ = child.Start()
		fmt.Println(os.Getpid())
		for lines := bufio.NewScanner(os.Stdin); lines.Scan(); {
			for range 5 {
				_ = run("leave")
			}
			fmt.Println("left")
		}
	case "last-words": // says much when its input has ended
		_, _ = io.Copy(io.Discard, os.Stdin)
		_, _ = os.Stdout.Write(bytes.Repeat([]byte("x"), 1<<20))
	case "leave":
		_ = exec.Command(os.Args[0], "pause").Start()
	case "pause":
		time.Sleep(50 * time.Millisecond)
	case "sleep":
		time.Sleep(time.Hour)
	case "self": // how it was started
		status, _ := os.ReadFile("/proc/self/status")
		for _, line := range strings.Split(string(status), "\n") {
			if strings.HasPrefix(line, "SigBlk") || strings.HasPrefix(line, "SigIgn") {
				fmt.Println(line)
			}
		}
		entries, _ := os.ReadDir("/proc/self/fd")
		for _, entry := range entries {
			target, _ := os.Readlink("/proc/self/fd/" + entry.Name())
			kind, _, _ := strings.Cut(target, ":")
			if kind == "pipe" || kind == "socket" {
				flags, _, _ := syscall.Syscall(syscall.SYS_FCNTL, uintptr(number(entry.Name())), syscall.F_GETFL, 0)
				fmt.Printf("fd %s %s nonblock=%v\n", entry.Name(), kind, flags&syscall.O_NONBLOCK != 0)
			}
		}
		var core syscall.Rlimit
		_ = syscall.Getrlimit(syscall.RLIMIT_CORE, &core)
		directory, _ := os.Getwd()
		fmt.Printf("core=%d\ncwd=%s\nargs=%q\n", core.Cur, directory, arguments)
		session, _, _ := syscall.Syscall(syscall.SYS_GETSID, 0, 0, 0)
		fmt.Printf("leader=%v\n", int(session) == os.Getpid() && syscall.Getpgrp() == os.Getpid())
	}
}

func run(role string) error {
	command := exec.Command(os.Args[0], role)
	command.Stdout = os.Stdout
	return command.Run()
}

func number(text string) int {
	value, _ := strconv.Atoi(text)
	return value
}
