// Outrigger-bridge lets a pod run a stdio MCP server in its own image: an init container copies this one static program
// into a shared volume, the server's container runs it as its command, and the sidecar connects to its Unix socket.
// Every connection is a process of the server, with the socket for stdin and stdout.
//
// It knows nothing of MCP: bytes in, bytes out. Restarting, pooling and time-outs are the sidecar's work; which files hold
// the environment is the operator's. Linux only, standard library only, no shell, no writable file system but the folder
// of the socket.
package main

import (
	"errors"
	"fmt"
	"io"
	"os"
)

// The version of the project; a test compares it with pyproject.toml.
const version = "0.1.0"

// Exit codes. The operator reads them: docs/bridge.md lists them.
const (
	exitOK            = 0
	exitFailed        = 1
	exitUsage         = 2
	exitNotExecutable = 126
	exitNotFound      = 127
)

const help = `outrigger-bridge runs a stdio MCP server behind a Unix socket: one process for each connection.

Usage:
  outrigger-bridge serve --socket PATH [OPTIONS] -- COMMAND [ARGUMENTS…]
  outrigger-bridge install DESTINATION
  outrigger-bridge --version | --help

serve listens on PATH (mode 0660) until SIGTERM. What a connection says is the stdin of its process, the process's
stdout is the answer, its stderr goes to this program's stderr.
  --socket PATH           Where to listen. A socket that nobody listens on any more is replaced.
  --env NAME=FILE         Variable of each process: the file's content when it is started, without its last newline.
  --env-from DIR[=PREFIX] As --env for every file in DIR whose name, after PREFIX, is one of a variable (A-Z a-z 0-9 _).
  --keep NAME             No --env-from replaces this variable of our own environment.
  --dir DIR               Working directory of each process. Default: ours.
  --max-processes N       Processes at once; connections beyond wait to be accepted. Default: 256.
  --stdin-grace TIME      Between closing a process's stdin and SIGTERM to its group. Default: 2s.
  --term-grace TIME       Between SIGTERM and SIGKILL. Default: 2s.
  --termination-log FILE  Where the reason of a failed start is written, if it exists. Default: /dev/termination-log.
--env and --env-from may be repeated. --env wins over --env-from, a later one over an earlier one.

install copies this program to DESTINATION (a file, or a directory that exists), replacing what is there in one step.

Exit codes: 0 ended by SIGTERM or SIGINT, no process left; 1 cannot listen or copy; 2 usage; 126 COMMAND cannot be
executed; 127 COMMAND not found.
`

// A failure ends the program with a code and one line that says what to do.
type failure struct {
	code    int
	message string
}

func (f *failure) Error() string { return f.message }

func fail(code int, format string, values ...any) *failure {
	return &failure{code, fmt.Sprintf(format, values...)}
}

func main() {
	os.Exit(run(os.Args[1:], os.Stdout, os.Stderr))
}

// Run is main with its surroundings given; it returns the exit code.
func run(arguments []string, stdout, stderr io.Writer) int {
	err := dispatch(arguments, stdout, stderr)
	if err == nil {
		return exitOK
	}
	code := exitFailed
	var known *failure
	if errors.As(err, &known) {
		code = known.code
	}
	fmt.Fprintf(stderr, "outrigger-bridge: %v\n", err)
	if code == exitUsage {
		fmt.Fprintln(stderr, "outrigger-bridge --help tells how it is used")
	}
	return code
}

func dispatch(arguments []string, stdout, stderr io.Writer) error {
	if len(arguments) == 0 {
		return fail(exitUsage, "what to do is missing: serve or install")
	}
	switch command, rest := arguments[0], arguments[1:]; command {
	case "serve":
		options, err := parseServe(rest)
		if errors.Is(err, errHelp) {
			_, err = io.WriteString(stdout, help)
			return err
		}
		if err == nil {
			err = serve(options, stderr)
		}
		if err != nil {
			leaveMessage(options.terminationLog, err.Error())
		}
		return err
	case "install":
		if len(rest) == 1 && (rest[0] == "--help" || rest[0] == "-h") {
			_, err := io.WriteString(stdout, help)
			return err
		}
		if len(rest) != 1 || rest[0] == "" {
			return fail(exitUsage, "install takes one argument, the DESTINATION, and got %d", len(rest))
		}
		return install(rest[0])
	case "--version", "version":
		_, err := fmt.Fprintf(stdout, "outrigger-bridge %s\n", version)
		return err
	case "--help", "-h", "help":
		_, err := io.WriteString(stdout, help)
		return err
	default:
		return fail(exitUsage, "%q is neither serve nor install", command)
	}
}

// LeaveMessage writes why we end where Kubernetes looks for it: status.containerStatuses[].lastState.terminated.message.
// The kubelet makes the file; where there is none, or it cannot be written, nobody is waiting for it.
func leaveMessage(path, message string) {
	file, err := os.OpenFile(path, os.O_WRONLY|os.O_TRUNC, 0)
	if err != nil {
		return
	}
	defer file.Close()
	_, _ = io.WriteString(file, message)
}
