package main

import (
	"bufio"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
	"unsafe"
)

// The test binary is the bridge too: by its first argument. So the race detector sees it.
const (
	asBridge = "as-bridge"
	patience = 30 * time.Second
)

// The server that runs behind it: testdata/server, whose first argument is what to do.
var serverProgram string

func TestMain(m *testing.M) {
	if len(os.Args) > 1 && os.Args[1] == asBridge {
		os.Exit(run(os.Args[2:], os.Stdout, os.Stderr))
	}
	os.Exit(testAll(m))
}

func testAll(m *testing.M) int {
	directory := must(os.MkdirTemp("", "bridge-test-"))
	defer os.RemoveAll(directory)
	serverProgram = filepath.Join(directory, "server")
	build := exec.Command("go", "build", "-o", serverProgram, "./testdata/server")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	build.Stderr = os.Stderr
	if err := build.Run(); err != nil {
		panic(err)
	}
	return m.Run()
}

func must[T any](value T, err error) T {
	if err != nil {
		panic(err)
	}
	return value
}

// A bridge under test: this binary in a process of its own.
type bridge struct {
	t      *testing.T
	socket string
	cmd    *exec.Cmd
	mu     sync.Mutex
	lines  []string
	ended  chan struct{}
}

type with struct {
	options []string
	env     []string
	command []string // instead of a server of ours
}

// StartBridge runs one whose server has the role.
func startBridge(t *testing.T, options with, role ...string) *bridge {
	t.Helper()
	b := &bridge{t: t, socket: filepath.Join(t.TempDir(), "s"), ended: make(chan struct{})}
	command := options.command
	if command == nil {
		command = append([]string{serverProgram}, role...)
	}
	arguments := append([]string{asBridge, "serve", "--socket", b.socket}, options.options...)
	b.cmd = exec.Command(must(os.Executable()), append(append(arguments, "--"), command...)...)
	b.cmd.Env = append(os.Environ(), options.env...)
	inherited, other := must2(os.Pipe()) // that no server may get
	defer inherited.Close()
	defer other.Close()
	b.cmd.ExtraFiles = []*os.File{inherited}
	stderr, err := b.cmd.StderrPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := b.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	go func() {
		defer close(b.ended)
		reader := bufio.NewReader(stderr)
		for {
			line, err := reader.ReadString('\n')
			if line != "" {
				b.mu.Lock()
				b.lines = append(b.lines, strings.TrimSuffix(line, "\n"))
				b.mu.Unlock()
			}
			if err != nil {
				_ = b.cmd.Wait()
				return
			}
		}
	}()
	t.Cleanup(func() {
		below := descendants(b.cmd.Process.Pid)
		b.stop()
		for _, pid := range below {
			if isAlive(pid) {
				t.Errorf("process %d outlived the bridge", pid)
				_ = syscall.Kill(pid, syscall.SIGKILL)
			}
		}
		if t.Failed() {
			t.Logf("stderr of the bridge:\n%s", b.log())
		}
		if strings.Contains(b.log(), "DATA RACE") {
			t.Errorf("a data race:\n%s", b.log())
		}
	})
	b.eventually("it listens", func() bool { return b.has("serves") || b.isOver() })
	return b
}

func (b *bridge) isOver() bool { return isClosed(b.ended) }

func (b *bridge) log() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return strings.Join(b.lines, "\n")
}

func (b *bridge) has(text string) bool { return strings.Contains(b.log(), text) }

// Stop sends SIGTERM and returns the exit code.
func (b *bridge) stop() int {
	_ = b.cmd.Process.Signal(syscall.SIGTERM)
	return b.wait()
}

func (b *bridge) wait() int {
	if !within(b.ended, patience) {
		_ = b.cmd.Process.Kill()
		b.t.Errorf("the bridge did not end")
		<-b.ended
	}
	return b.cmd.ProcessState.ExitCode()
}

func (b *bridge) eventually(what string, condition func() bool) {
	b.t.Helper()
	until := time.Now().Add(patience)
	for !condition() {
		if time.Now().After(until) {
			b.t.Fatalf("it did not come about: %s\n%s", what, b.log())
		}
		time.Sleep(2 * time.Millisecond)
	}
}

func (b *bridge) said(text string) {
	b.t.Helper()
	b.eventually("stderr says "+text, func() bool { return b.has(text) })
}

// A caller is the other end of a connection.
type caller struct {
	*net.UnixConn
	t      *testing.T
	reader *bufio.Reader
}

func (b *bridge) connect() *caller {
	b.t.Helper()
	connection, err := net.DialUnix("unix", nil, &net.UnixAddr{Name: b.socket, Net: "unix"})
	if err != nil {
		b.t.Fatal(err)
	}
	_ = connection.SetDeadline(time.Now().Add(patience))
	b.t.Cleanup(func() { _ = connection.Close() })
	return &caller{connection, b.t, bufio.NewReader(connection)}
}

func (c *caller) say(line string) {
	c.t.Helper()
	if _, err := io.WriteString(c, line+"\n"); err != nil {
		c.t.Fatal(err)
	}
}

func (c *caller) line() string {
	c.t.Helper()
	line, err := c.reader.ReadString('\n')
	if err != nil {
		c.t.Fatalf("after %q: %v", line, err)
	}
	return strings.TrimSuffix(line, "\n")
}

// Number is a line with a process id.
func (c *caller) number() int {
	c.t.Helper()
	number, err := strconv.Atoi(c.line())
	if err != nil {
		c.t.Fatal(err)
	}
	return number
}

func (c *caller) rest() string {
	c.t.Helper()
	rest, err := io.ReadAll(c.reader)
	if err != nil {
		c.t.Fatalf("after %d bytes: %v", len(rest), err)
	}
	return string(rest)
}

// IsAlive: zombies are not.
func isAlive(pid int) bool {
	state, _ := stateOf(pid)
	return state != 0 && state != 'Z' && state != 'X'
}

func descendants(pid int) []int {
	var found []int
	all := processes()
	for pending := []int{pid}; len(pending) > 0; pending = pending[1:] {
		for _, other := range all {
			if _, parent := stateOf(other); parent == pending[0] && other != pid {
				found = append(found, other)
				pending = append(pending, other)
			}
		}
	}
	return found
}

func zombies(pid int) int {
	count := 0
	for _, other := range processes() {
		if state, parent := stateOf(other); state == 'Z' && parent == pid {
			count++
		}
	}
	return count
}

func must2[A, B any](a A, b B, err error) (A, B) {
	if err != nil {
		panic(err)
	}
	return a, b
}

func ptr[T any](value *T) unsafe.Pointer { return unsafe.Pointer(value) }
