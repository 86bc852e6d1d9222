package main

import (
	"bufio"
	"bytes"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"
)

func TestConnectionsAreProcesses(t *testing.T) {
	b := startBridge(t, with{}, "echo")
	first, second := b.connect(), b.connect()
	first.say("one")
	second.say("two")
	if got := first.line() + second.line(); got != "onetwo" {
		t.Fatal(got)
	}
	if count := len(descendants(b.cmd.Process.Pid)); count != 2 {
		t.Fatalf("%d processes", count)
	}
	first.Close()
	b.said("process 1 (pid")
	b.eventually("one is left", func() bool { return len(descendants(b.cmd.Process.Pid)) == 1 })
	second.say("still here")
	if got := second.line(); got != "still here" {
		t.Fatal(got)
	}
}

func TestLargeMessagesBothWays(t *testing.T) {
	b := startBridge(t, with{}, "copy")
	c := b.connect()
	sent := bytes.Repeat([]byte("0123456789abcdef"), 1<<19) // 8 MiB
	go func() {
		_, _ = c.Write(sent)
		_ = c.CloseWrite()
	}()
	if got := c.rest(); got != string(sent) {
		t.Fatalf("%d of %d bytes", len(got), len(sent))
	}
}

func TestExitStatusesAreTold(t *testing.T) {
	b := startBridge(t, with{}, "echo")
	for say, told := range map[string]string{
		"exit 0": "exited with status 0", "exit 7": "exited with status 7",
		"kill 9": "was killed by SIGKILL", "kill 15": "was killed by SIGTERM",
	} {
		c := b.connect()
		c.say(say)
		if rest := c.rest(); rest != "" {
			t.Fatal(rest)
		}
		b.said(told)
	}
}

func TestInputEndsWhileOutputFlows(t *testing.T) {
	// It answers for longer than the grace, and is not hurried while it does.
	b := startBridge(t, with{options: []string{"--stdin-grace", "800ms"}}, "late")
	c := b.connect()
	c.say("one two three four five six")
	_ = c.CloseWrite()
	if got := c.rest(); got != "one\ntwo\nthree\nfour\nfive\nsix\n" {
		t.Fatalf("%q", got)
	}
	b.said("exited with status 0")
}

func TestProcessThatIgnoresTheEndOfInputIsEnded(t *testing.T) {
	b := startBridge(t, with{options: []string{"--stdin-grace", "50ms"}}, "on-term")
	c := b.connect()
	c.number()
	_ = c.CloseWrite()
	if got := c.rest(); got != "TERM\n" {
		t.Fatalf("%q", got)
	}
	b.said("exited with status 5")
	b.said("as its input ended")
}

func TestHangUpEndsAProcessThatReadsNothing(t *testing.T) {
	b := startBridge(t, with{options: []string{"--stdin-grace", "50ms", "--term-grace", "50ms"}}, "deaf")
	c := b.connect()
	pid := c.number()
	// More than every buffer on the way holds, so that the bridge itself is stuck in writing.
	_ = c.SetWriteDeadline(time.Now().Add(300 * time.Millisecond))
	written, _ := c.Write(make([]byte, 8<<20))
	if written >= 8<<20 {
		t.Fatal("nothing held it up")
	}
	c.Close()
	b.eventually("it is gone", func() bool { return !isAlive(pid) })
	b.said("as its connection was closed")
}

func TestStubbornGroupIsKilled(t *testing.T) {
	b := startBridge(t, with{options: []string{"--stdin-grace", "50ms", "--term-grace", "100ms"}}, "stubborn")
	c := b.connect()
	pid := c.number()
	c.Close()
	b.eventually("it is gone", func() bool { return !isAlive(pid) })
	b.said("was killed by SIGKILL")
}

func TestProcessThatClosesItsOutputOrInputIsEnded(t *testing.T) {
	for role, told := range map[string]string{"mute": "as it closed its stdout", "close-stdin": "as it closed its stdin"} {
		b := startBridge(t, with{options: []string{"--stdin-grace", "50ms"}}, role)
		c := b.connect()
		pid := c.number()
		if role == "close-stdin" {
			for range 100 { // once it has closed it, writing fails
				if _, err := io.WriteString(c, "hello\n"); err != nil {
					break // it was ended meanwhile
				}
				time.Sleep(time.Millisecond)
				if b.has("killed") || b.has("exited") {
					break
				}
			}
		}
		_ = c.rest()
		b.eventually("it is gone", func() bool { return !isAlive(pid) })
		b.said(told)
	}
}

func TestRestOfTheOutputIsDelivered(t *testing.T) {
	b := startBridge(t, with{}, "say", "60000")
	c := b.connect()
	b.said("exited with status 0") // the pipe held everything
	if got := c.rest(); len(got) != 60000 {
		t.Fatal(len(got))
	}
}

func TestRestThatWaitsForItsReader(t *testing.T) {
	// The socket is full, so is the bridge's buffer, and the rest is in the pipe of a process that has ended.
	const size = 270_000
	b := startBridge(t, with{}, "say", fmt.Sprint(size))
	c := b.connect()
	b.said("process 1 (pid")
	b.eventually("the process is gone", func() bool { return len(descendants(b.cmd.Process.Pid)) == 0 })
	time.Sleep(3 * restIdle)
	if b.has("exited") {
		t.Skip("this kernel's sockets hold more")
	}
	if got := c.rest(); len(got) != size {
		t.Fatal(len(got))
	}
}

func TestSlowReaderGetsTheRestAndHoldsUpNobody(t *testing.T) {
	b := startBridge(t, with{}, "say", "3000000")
	slow := b.connect()
	time.Sleep(100 * time.Millisecond)
	if got := b.connect().rest(); len(got) != 3000000 {
		t.Fatal(len(got))
	}
	if got := slow.rest(); len(got) != 3000000 {
		t.Fatal(len(got))
	}
}

func TestSlowReadersCostBoundedMemory(t *testing.T) {
	b := startBridge(t, with{options: []string{"--stdin-grace", "0s", "--term-grace", "50ms"}}, "flood")
	for range 10 {
		c := b.connect()
		if _, err := io.ReadFull(c, make([]byte, 1)); err != nil {
			t.Fatal(err)
		}
	}
	time.Sleep(200 * time.Millisecond)
	status := string(must(os.ReadFile(fmt.Sprintf("/proc/%d/status", b.cmd.Process.Pid))))
	var kilobytes int
	fmt.Sscanf(regexp.MustCompile(`VmRSS:\s+(\d+)`).FindStringSubmatch(status)[1], "%d", &kilobytes)
	// This binary under the race detector takes several times what the bridge takes (tests/integration measures that).
	if kilobytes > 200<<10 {
		t.Fatalf("%d KiB", kilobytes)
	}
}

func TestGroupGoesWithItsLeader(t *testing.T) {
	for _, kind := range []string{"group", "daemon"} {
		for _, leave := range []bool{false, true} {
			role := []string{"parent", kind}
			if leave {
				role = append(role, "leave") // the leader exits at once; the other one holds its stdout
			}
			b := startBridge(t, with{options: []string{"--stdin-grace", "100ms", "--term-grace", "100ms"}}, role...)
			c := b.connect()
			pid := c.number()
			if !leave {
				c.Close()
			} else if rest := c.rest(); rest != "" {
				t.Fatal(rest)
			}
			b.eventually(kind+" is gone", func() bool { return !isAlive(pid) })
			b.said("process 1 (pid")
			b.eventually("no process is below", func() bool { return len(descendants(b.cmd.Process.Pid)) == 0 })
			if kind == "daemon" {
				b.said("it left 1 other processes behind")
			}
		}
	}
}

func TestOrphansAreReapedAndNoStatusIsStolen(t *testing.T) {
	b := startBridge(t, with{}, "orphans", "20")
	var callers []*caller
	for range 4 {
		callers = append(callers, b.connect())
	}
	for _, c := range callers {
		if got := c.line(); got != "left" {
			t.Fatal(got)
		}
		_ = c.CloseWrite()
		c.rest()
	}
	b.eventually("every status is told", func() bool { return strings.Count(b.log(), "exited with status 9") == 4 })
	b.eventually("no zombie is left", func() bool { return zombies(b.cmd.Process.Pid) == 0 })
}

func TestOrphansAreReapedWhileAnEndedServerIsHeld(t *testing.T) {
	b := startBridge(t, with{options: []string{"--stdin-grace", "20s"}}, "held")
	first, second := b.connect(), b.connect()
	held := first.number()
	second.number()
	_ = first.CloseWrite()
	b.eventually("it is a zombie", func() bool { state, _ := stateOf(held); return state == 'Z' })
	second.say("now")
	if got := second.line(); got != "left" {
		t.Fatal(got)
	}
	b.eventually("the others are reaped", func() bool { return zombies(b.cmd.Process.Pid) == 1 && len(descendants(b.cmd.Process.Pid)) == 4 })
	if state, _ := stateOf(held); state != 'Z' {
		t.Error("the held one is gone, and with it the number of its group")
	}
	_ = b.cmd.Process.Signal(syscall.SIGTERM)
	_ = b.cmd.Process.Signal(syscall.SIGTERM)
}

func TestOrphansAreAdopted(t *testing.T) {
	b := startBridge(t, with{}, "adopted")
	c := b.connect()
	pid := c.number()
	b.eventually("it is ours", func() bool { _, parent := stateOf(pid); return parent == b.cmd.Process.Pid })
	c.Close()
	b.eventually("it went with the server", func() bool { return !isAlive(pid) })
}

func TestWhoHidesAndHoldsStdoutHoldsUpNobody(t *testing.T) {
	b := startBridge(t, with{}, "parent", "hidden", "leave")
	c := b.connect()
	pid := c.number()
	defer syscall.Kill(pid, syscall.SIGKILL) // the one kind of process that the bridge does not find
	if rest := c.rest(); rest != "" {
		t.Fatal(rest)
	}
	b.said("exited with status 0")
}

func TestTalkingToNobodyIsNoReasonToStay(t *testing.T) {
	b := startBridge(t, with{options: []string{"--stdin-grace", "100ms"}}, "flood")
	c := b.connect()
	_ = c.CloseWrite()
	if _, err := io.ReadFull(c, make([]byte, 1<<20)); err != nil {
		t.Fatal(err)
	}
	c.Close()
	b.said("was killed by SIGTERM")
}

func TestServerMaySayItsLastWordsToNobody(t *testing.T) {
	b := startBridge(t, with{options: []string{"--stdin-grace", "20s"}}, "last-words")
	b.connect().Close()
	b.connect().Close()
	c := b.connect()
	b.said("process 3 (pid")
	c.Close()
	b.said("exited with status 0")
}

func TestEndOfTheOutputIsPassedOnAtOnce(t *testing.T) {
	b := startBridge(t, with{options: []string{"--stdin-grace", "20s"}}, "mute")
	c := b.connect()
	pid := c.number()
	if rest := c.rest(); rest != "" || !isAlive(pid) {
		t.Errorf("%q, and alive: %v", rest, isAlive(pid))
	}
	_ = b.cmd.Process.Signal(syscall.SIGTERM)
	_ = b.cmd.Process.Signal(syscall.SIGTERM)
}

func TestProcessIsStartedCleanly(t *testing.T) {
	var core syscall.Rlimit
	if err := syscall.Getrlimit(syscall.RLIMIT_CORE, &core); err == nil {
		raised := syscall.Rlimit{Cur: core.Max, Max: core.Max}
		_ = syscall.Setrlimit(syscall.RLIMIT_CORE, &raised)
		defer syscall.Setrlimit(syscall.RLIMIT_CORE, &core)
	}
	directory := must(filepath.EvalSymlinks(t.TempDir()))
	b := startBridge(t, with{options: []string{"--dir", directory}}, "self", "an argument", "")
	got := b.connect().rest()
	for _, line := range []string{
		"SigBlk:\t0000000000000000", "fd 0 pipe nonblock=false", "fd 1 pipe nonblock=false", "fd 2 pipe nonblock=false",
		"core=0", "cwd=" + directory, `args=["an argument" ""]`, "leader=true",
	} {
		if !strings.Contains(got, line+"\n") {
			t.Errorf("%q is missing in\n%s", line, got)
		}
	}
	if count := strings.Count(got, "fd "); count != 3 {
		t.Errorf("%d descriptors:\n%s", count, got)
	}
	ignored, err := strconv.ParseUint(regexp.MustCompile(`SigIgn:\t(\w+)`).FindStringSubmatch(got)[1], 16, 64)
	const own = 0x7 << 31 // 32 to 34 belong to the C library and to the race detector's runtime
	if err != nil || ignored&^own != 0 {
		t.Errorf("signals are ignored: %x %v", ignored, err)
	}
}

func TestTermEndsEverything(t *testing.T) {
	b := startBridge(t, with{options: []string{"--stdin-grace", "50ms", "--term-grace", "100ms"}}, "stubborn")
	var pids []int
	for range 5 {
		pids = append(pids, b.connect().number())
	}
	began := time.Now()
	if code := b.stop(); code != 0 {
		t.Fatalf("exit code %d", code)
	}
	if took := time.Since(began); took > patience/2 {
		t.Errorf("it took %v", took)
	}
	for _, pid := range pids {
		if isAlive(pid) {
			t.Errorf("%d is alive", pid)
		}
	}
	if _, err := os.Lstat(b.socket); !os.IsNotExist(err) {
		t.Errorf("the socket is still there: %v", err)
	}
}

func TestTermLetsAServerEndItself(t *testing.T) {
	b := startBridge(t, with{options: []string{"--stdin-grace", "1m"}}, "echo")
	c := b.connect()
	c.say("hello")
	c.line()
	began := time.Now()
	if code := b.stop(); code != 0 {
		t.Fatal(code)
	}
	if took := time.Since(began); took > patience/2 {
		t.Errorf("it took %v", took)
	}
	b.said("exited with status 0")
}

func TestSecondSignalKills(t *testing.T) {
	b := startBridge(t, with{options: []string{"--stdin-grace", "1m", "--term-grace", "1m"}}, "stubborn")
	pid := b.connect().number()
	_ = b.cmd.Process.Signal(syscall.SIGTERM)
	b.said("ending every process")
	_ = b.cmd.Process.Signal(syscall.SIGINT)
	if code := b.wait(); code != 0 || isAlive(pid) {
		t.Fatal(code, isAlive(pid))
	}
}

func TestConnectionsBeyondTheLimitWait(t *testing.T) {
	b := startBridge(t, with{options: []string{"--max-processes", "1"}}, "echo")
	first := b.connect()
	first.say("one")
	first.line()
	second, gaveUp, third := b.connect(), b.connect(), b.connect()
	b.said("connection 2 waits")
	gaveUp.Close()
	second.say("two")
	if count := len(descendants(b.cmd.Process.Pid)); count != 1 {
		t.Fatalf("%d processes", count)
	}
	first.Close()
	if got := second.line(); got != "two" {
		t.Fatal(got)
	}
	second.Close()
	third.say("three")
	if got := third.line(); got != "three" {
		t.Fatal(got)
	}
	if b.has("process 3 ") {
		t.Error("a process was started for a caller that had gone")
	}
}

func TestMissingFileClosesTheConnectionUntilItIsThere(t *testing.T) {
	file := filepath.Join(t.TempDir(), "token")
	b := startBridge(t, with{options: []string{"--env", "TOKEN=" + file}}, "environment")
	if rest := b.connect().rest(); rest != "" {
		t.Fatal(rest)
	}
	b.said("connection 1 is closed: --env TOKEN: cannot read the file " + file + ": no such file or directory")
	for _, value := range []string{"first-value", "second-value"} {
		if err := os.WriteFile(file, []byte(value+"\n"), 0o600); err != nil {
			t.Fatal(err)
		}
		c := b.connect()
		_ = c.CloseWrite()
		if got := c.rest(); !strings.Contains(got, "\nTOKEN="+value+"\n") {
			t.Fatal(got)
		}
	}
	if b.has("-value") {
		t.Error("a value is in the log")
	}
	if arguments := string(must(os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", b.cmd.Process.Pid)))); strings.Contains(arguments, "-value") {
		t.Error(arguments)
	}
}

func TestStderrIsRelayedByLine(t *testing.T) {
	b := startBridge(t, with{}, "stderr-lines", "200")
	for range 4 {
		c := b.connect()
		defer c.Close()
	}
	b.eventually("all lines", func() bool { return strings.Count(b.log(), "-end") == 800 })
	for _, line := range strings.Split(b.log(), "\n") {
		if strings.Contains(line, "-end") && !regexp.MustCompile(`^\d+-\d+-begin-end$`).MatchString(line) {
			t.Fatalf("%q", line)
		}
	}
}

func TestSecretsAreTakenOutOfStderr(t *testing.T) {
	file := filepath.Join(t.TempDir(), "token")
	if err := os.WriteFile(file, []byte("hunter2-hunter2\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	b := startBridge(t, with{options: []string{"--env", "TOKEN=" + file}}, "stderr", "refused: hunter2-hunter2!", "bye")
	b.connect().rest()
	b.said("refused: ***!")
	b.said("bye")
	if b.has("hunter2") {
		t.Error("the secret is in the log")
	}
}

func TestNobodyReadsOurStderr(t *testing.T) {
	// The container's log is stuck: servers that are silent go on, and SIGTERM ends everything.
	socket := filepath.Join(t.TempDir(), "s")
	reader, writer := must2(os.Pipe())
	defer reader.Close()
	attributes := &os.ProcAttr{Files: []*os.File{nil, nil, writer}}
	executable := must(os.Executable())
	process := must(os.StartProcess(executable, []string{executable, asBridge, "serve", "--socket", socket, "--", serverProgram, "echo"}, attributes))
	writer.Close()
	_, _, _ = syscall.Syscall(syscall.SYS_FCNTL, reader.Fd(), 1031 /* F_SETPIPE_SZ */, 4096)
	filled := false
	for number := range 300 {
		connection, err := net.Dial("unix", socket)
		if err != nil {
			time.Sleep(5 * time.Millisecond)
			continue
		}
		_ = connection.SetDeadline(time.Now().Add(patience))
		fmt.Fprintln(connection, number)
		if _, err := connection.Read(make([]byte, 10)); err != nil {
			t.Fatalf("connection %d: %v", number, err)
		}
		connection.Close()
		var unread int32
		_, _, _ = syscall.Syscall(syscall.SYS_IOCTL, reader.Fd(), 0x541b /* FIONREAD */, uintptr(ptr(&unread)))
		if filled = unread > 3900; filled && number > 150 { // and the queue of lines too
			break
		}
	}
	if !filled {
		t.Error("the pipe never filled")
	}
	_ = process.Signal(syscall.SIGTERM)
	done := make(chan *os.ProcessState, 1)
	go func() { done <- must(process.Wait()) }()
	select {
	case state := <-done:
		if state.ExitCode() != 0 {
			t.Error(state)
		}
	case <-time.After(patience):
		_ = process.Kill()
		t.Error("it did not end")
	}
}

func TestReaderOfOurStderrIsGone(t *testing.T) {
	socket := filepath.Join(t.TempDir(), "s")
	reader, writer := must2(os.Pipe())
	executable := must(os.Executable())
	process := must(os.StartProcess(executable, []string{executable, asBridge, "serve", "--socket", socket, "--", serverProgram, "echo"},
		&os.ProcAttr{Files: []*os.File{nil, nil, writer}}))
	writer.Close()
	reader.Close()
	until := time.Now().Add(patience)
	for served := 0; served < 3; {
		connection, err := net.Dial("unix", socket)
		if err != nil {
			if time.Now().After(until) {
				t.Fatal(err)
			}
			time.Sleep(5 * time.Millisecond)
			continue
		}
		fmt.Fprintln(connection, "hello")
		if count, err := connection.Read(make([]byte, 10)); count == 0 {
			t.Fatal(err)
		}
		connection.Close()
		served++
	}
	_ = process.Signal(syscall.SIGTERM)
	if state := must(process.Wait()); state.ExitCode() != 0 {
		t.Error(state)
	}
}

func TestStartsThatFailAreTold(t *testing.T) {
	directory := t.TempDir()
	write := func(name, text string, mode os.FileMode) string {
		path := filepath.Join(directory, name)
		if err := os.WriteFile(path, []byte(text), mode); err != nil {
			t.Fatal(err)
		}
		return path
	}
	gone := write("gone", "#!"+must(os.Executable())+"\n", 0o755)
	for _, each := range []struct {
		command []string
		options []string
		before  func()
		told    string
	}{
		{[]string{write("no-program", "hello", 0o755)}, nil, nil, "it is no program for this machine"},
		{[]string{gone}, nil, func() { _ = os.Remove(gone) }, "could not be started: no such file or directory"},
		{[]string{serverProgram, "echo"}, []string{"--env", "BIG=" + write("big", strings.Repeat("x", 200<<10), 0o644)}, nil, "too large for the kernel"},
	} {
		b := startBridge(t, with{command: each.command, options: each.options})
		if each.before != nil {
			each.before()
		}
		for range 2 { // the bridge stays
			if rest := b.connect().rest(); rest != "" {
				t.Fatal(rest)
			}
		}
		b.said(each.told)
		b.said("connection 2 is closed")
	}
}

func TestCommandThatIsNotThereEndsTheBridge(t *testing.T) {
	message := filepath.Join(t.TempDir(), "termination-log")
	if err := os.WriteFile(message, []byte("before, and longer than what is to come: "+strings.Repeat("x", 5000)), 0o644); err != nil {
		t.Fatal(err)
	}
	b := startBridge(t, with{options: []string{"--termination-log", message}, command: []string{"no-such-server"}})
	if code := b.wait(); code != exitNotFound {
		t.Fatalf("exit code %d", code)
	}
	b.said("outrigger-bridge: command not found: no-such-server; set spec.stdio.command to")
	if left := string(must(os.ReadFile(message))); !strings.HasPrefix(left, "command not found: no-such-server; set spec.stdio.command") || strings.Contains(left, "xxx") {
		t.Errorf("%q", left)
	}
	if _, err := os.Lstat(b.socket); err == nil {
		t.Error("it made a socket")
	}
	absent := filepath.Join(t.TempDir(), "absent") // where there is no Kubernetes
	if code := run([]string{"serve", "--termination-log", absent, "--socket", "s", "--", "no-such-server"}, io.Discard, io.Discard); code != exitNotFound {
		t.Errorf("exit code %d", code)
	}
	if _, err := os.Lstat(absent); err == nil {
		t.Error("it made a file for the message")
	}
}

func TestStormOfConnections(t *testing.T) {
	b := startBridge(t, with{options: []string{"--stdin-grace", "200ms", "--term-grace", "200ms", "--max-processes", "16"}}, "pid")
	done := make(chan error, 8)
	for worker := range 8 {
		go func() {
			for number := range 20 {
				if err := b.stormOnce(worker, number); err != nil {
					done <- err
					return
				}
			}
			done <- nil
		}()
	}
	for range 8 {
		if err := <-done; err != nil {
			t.Error(err)
		}
	}
	b.eventually("no process is left", func() bool { return len(descendants(b.cmd.Process.Pid)) == 0 })
	b.eventually("every end is told", func() bool { return strings.Count(b.log(), " after ") == 160 })
	descriptors := len(must(os.ReadDir(fmt.Sprintf("/proc/%d/fd", b.cmd.Process.Pid))))
	if descriptors > 12 {
		t.Errorf("%d descriptors are open", descriptors)
	}
}

// StormOnce is one connection that ends in one of four ways.
func (b *bridge) stormOnce(worker, number int) error {
	connection, err := net.Dial("unix", b.socket)
	if err != nil {
		return err
	}
	defer connection.Close()
	_ = connection.SetDeadline(time.Now().Add(patience))
	reader := bufio.NewReader(connection)
	var pid int
	if _, err := fmt.Fscanf(reader, "%d\n", &pid); err != nil {
		return err
	}
	text := fmt.Sprintf("%d-%d\n", worker, number)
	_, _ = io.WriteString(connection, text)
	if answer, err := reader.ReadString('\n'); err != nil || answer != text {
		return fmt.Errorf("%q for %q: %w", answer, text, err)
	}
	switch number % 4 {
	case 0:
		return syscall.Kill(pid, syscall.SIGKILL)
	case 1:
		return syscall.Kill(pid, syscall.SIGSTOP) // even that one has to go
	case 2:
		return connection.(*net.UnixConn).CloseWrite()
	}
	return nil
}
