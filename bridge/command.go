package main

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"syscall"
)

// Where a command is looked for when the container's environment has no PATH, as execvp(3) of the usual C libraries does.
const defaultPath = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

const accessExecute = 1 // X_OK of access(2)

// LookUp finds the file that command names, as exec would in the working directory: a name with a slash is a path, any
// other is searched on path. A failure tells what to change in the MCPServer, with the exit code of a shell.
func lookUp(command, directory, path string) (string, error) {
	if directory != "" {
		if info, err := os.Stat(directory); err != nil || !info.IsDir() {
			return "", fail(exitNotExecutable, "the working directory %q does not exist in the server's image; set spec.stdio.workingDir to one that does", directory)
		}
	}
	var candidates []string
	if strings.ContainsRune(command, '/') {
		candidates = []string{inside(directory, command)}
	} else {
		if path == "" {
			path = defaultPath
		}
		for _, folder := range strings.Split(path, ":") {
			candidates = append(candidates, inside(directory, filepath.Join(folder, command)))
		}
	}
	refused := ""
	for _, candidate := range candidates {
		info, err := os.Stat(candidate)
		if err != nil || info.IsDir() {
			continue
		}
		if syscall.Access(candidate, accessExecute) != nil {
			refused = candidate
			continue
		}
		return candidate, examine(command, candidate, directory)
	}
	if refused != "" {
		return "", fail(exitNotExecutable, "command %s: the file %s is not executable by user %d; set spec.stdio.command to a program, or podTemplate.server.securityContext.runAsUser to a user that may run it", command, refused, os.Getuid())
	}
	return "", fail(exitNotFound, "command not found: %s; set spec.stdio.command to a program that the server's image has (PATH there: %s)", command, path)
}

// Inside is path as a process sees it whose working directory is directory.
func inside(directory, path string) string {
	if filepath.IsAbs(path) || directory == "" {
		if absolute, err := filepath.Abs(path); err == nil {
			return absolute
		}
	}
	return filepath.Join(directory, path)
}

// Examine looks for a script whose interpreter the image lacks: exec would say that the script itself is not there. What
// exec can say by itself is left to it, programs for other processors too: some machines can run those.
func examine(command, file, directory string) error {
	opened, err := os.Open(file)
	if err != nil {
		return nil
	}
	defer opened.Close()
	head := make([]byte, 256) // what the kernel looks at
	count, _ := opened.Read(head)
	line, isScript := bytes.CutPrefix(head[:count], []byte("#!"))
	if !isScript {
		return nil
	}
	line, _, _ = bytes.Cut(line, []byte("\n"))
	fields := bytes.FieldsFunc(line, func(c rune) bool { return c == ' ' || c == '\t' }) // not \r: a DOS script fails
	if len(fields) == 0 {
		return nil
	}
	interpreter := string(fields[0])
	if _, err := os.Stat(inside(directory, interpreter)); errors.Is(err, os.ErrNotExist) {
		return fail(exitNotFound, "command not found: the script %s is to be run by %q, which the server's image lacks; set spec.stdio.command to a program that it has", command, interpreter)
	}
	return nil
}
