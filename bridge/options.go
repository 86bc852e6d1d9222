package main

import (
	"errors"
	"strconv"
	"strings"
	"time"
)

const (
	defaultMaxProcesses   = 256
	defaultGrace          = 2 * time.Second
	defaultTerminationLog = "/dev/termination-log"
	// The longest path that fits into a sockaddr_un with its closing zero (unix(7)).
	maxSocketPath = 107
)

var errHelp = errors.New("help is wanted")

// EnvFile is one variable and the file that holds its value.
type envFile struct{ name, file string }

// EnvDirectory is a folder whose files are variables.
type envDirectory struct{ directory, prefix string }

// ServeOptions is the command line of serve.
type serveOptions struct {
	socket         string
	env            []envFile
	envFrom        []envDirectory
	keep           []string
	directory      string
	maxProcesses   int
	stdinGrace     time.Duration
	termGrace      time.Duration
	terminationLog string
	command        []string
}

// ParseServe reads what follows the word serve. A failure names the flag that is wrong; the options are valid as far as
// they were read.
func parseServe(arguments []string) (*serveOptions, error) {
	options := &serveOptions{
		maxProcesses:   defaultMaxProcesses,
		stdinGrace:     defaultGrace,
		termGrace:      defaultGrace,
		terminationLog: defaultTerminationLog,
	}
	separated := false
	for len(arguments) > 0 && !separated {
		var argument string
		argument, arguments = arguments[0], arguments[1:]
		if argument == "--" {
			separated, options.command = true, arguments
			break
		}
		if argument == "--help" || argument == "-h" {
			return options, errHelp
		}
		if !strings.HasPrefix(argument, "-") {
			return options, fail(exitUsage, "%q is not an option; write -- before the server's command", argument)
		}
		flag, value, given := strings.Cut(argument, "=")
		if !known[flag] {
			return options, fail(exitUsage, "there is no option %s", flag)
		}
		if !given {
			if len(arguments) == 0 || arguments[0] == "--" {
				return options, fail(exitUsage, "%s needs a value", flag)
			}
			value, arguments = arguments[0], arguments[1:]
		}
		if value == "" || strings.ContainsRune(value, 0) {
			return options, fail(exitUsage, "%s needs a value", flag)
		}
		if err := options.set(flag, value); err != nil {
			return options, err
		}
	}
	switch {
	case options.socket == "":
		return options, fail(exitUsage, "--socket is missing: the path to listen on")
	case !separated || len(options.command) == 0 || options.command[0] == "":
		return options, fail(exitUsage, "the server's command is missing: write it after --")
	}
	return options, nil
}

var known = map[string]bool{
	"--socket": true, "--env": true, "--env-from": true, "--keep": true, "--dir": true, "--max-processes": true,
	"--stdin-grace": true, "--term-grace": true, "--termination-log": true,
}

func (o *serveOptions) set(flag, value string) error {
	switch flag {
	case "--socket":
		if len(value) > maxSocketPath {
			return fail(exitUsage, "--socket is longer than %d bytes, the longest path of a Unix socket: %s", maxSocketPath, value)
		}
		o.socket = value
	case "--env":
		name, file, ok := strings.Cut(value, "=")
		if !ok || name == "" || file == "" {
			return fail(exitUsage, "--env takes NAME=FILE, not %q", value)
		}
		o.env = append(o.env, envFile{name, file})
	case "--env-from":
		directory, prefix, _ := strings.Cut(value, "=")
		if directory == "" || (prefix != "" && !isVariable(prefix)) {
			return fail(exitUsage, "--env-from takes DIR or DIR=PREFIX, the prefix beginning like a variable's name, not %q", value)
		}
		o.envFrom = append(o.envFrom, envDirectory{directory, prefix})
	case "--keep":
		o.keep = append(o.keep, value)
	case "--dir":
		o.directory = value
	case "--max-processes":
		number, err := strconv.Atoi(value)
		if err != nil || number < 1 {
			return fail(exitUsage, "--max-processes takes a whole number from 1, not %q", value)
		}
		o.maxProcesses = number
	case "--termination-log":
		o.terminationLog = value
	case "--stdin-grace", "--term-grace":
		grace, err := time.ParseDuration(value)
		if err != nil || grace < 0 {
			return fail(exitUsage, "%s takes a time like 500ms or 2s, not %q", flag, value)
		}
		if flag == "--stdin-grace" {
			o.stdinGrace = grace
		} else {
			o.termGrace = grace
		}
	}
	return nil
}
