package main

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"unicode/utf8"
)

const (
	maxFileBytes = 1 << 20 // a Secret or ConfigMap holds no more
	maxFiles     = 1000    // of one directory
	maxReadings  = 5       // of a volume that changes meanwhile
	sealedMark   = "fernet:v1:"
)

// Environment makes the variables of a process: ours, then what the mounted files hold at that moment. It remembers
// nothing, so a rotated Secret is used by the next process.
type environment struct {
	own     []string
	files   []envFile
	folders []envDirectory
	keep    []string
}

// Read returns the variables as exec takes them and the values that came from files, which no log may show. An error names
// the variable and the file, never a value.
func (e *environment) read() (variables, secrets []string, err error) {
	for range maxReadings {
		reading := &reading{bases: make(map[string]string)}
		variables, secrets, err = e.readOnce(reading)
		if reading.current() {
			return variables, secrets, err
		}
		// A volume changed meanwhile: what was read may be half of one version.
	}
	return nil, nil, errors.New("the files of the environment change faster than they can be read")
}

func (e *environment) readOnce(reading *reading) (variables, secrets []string, err error) {
	values := make(map[string]string)
	var order []string
	put := func(name, value string) {
		if _, there := values[name]; !there {
			order = append(order, name)
		}
		values[name] = value
	}
	for _, entry := range e.own {
		if name, value, ok := strings.Cut(entry, "="); ok && name != "" {
			put(name, value)
		}
	}
	for _, folder := range e.folders {
		found, err := reading.folder(folder)
		if err != nil {
			return nil, nil, err
		}
		for _, variable := range found {
			if _, ours := values[variable.name]; ours && slices.Contains(e.keep, variable.name) {
				continue
			}
			put(variable.name, variable.value)
			secrets = append(secrets, variable.value)
		}
	}
	for _, entry := range e.files {
		value, err := reading.value(entry.file)
		if err != nil {
			return nil, nil, fmt.Errorf("--env %s: %w", entry.name, err)
		}
		put(entry.name, value)
		secrets = append(secrets, value)
	}
	for _, name := range order {
		variables = append(variables, name+"="+values[name])
	}
	return variables, secrets, nil
}

type variable struct{ name, value string }

// A reading sees each mounted volume at one version. The kubelet changes a volume by moving the symlink ..data to another
// directory; who opened two files by their names could get one old and one new.
type reading struct{ bases map[string]string }

// Base is the directory that holds the files of directory now.
func (r *reading) base(directory string) string {
	base, known := r.bases[directory]
	if !known {
		base = newest(directory)
		r.bases[directory] = base
	}
	return base
}

// Current tells whether every volume is still at the version that was read.
func (r *reading) current() bool {
	for directory, base := range r.bases {
		if newest(directory) != base {
			return false
		}
	}
	return true
}

// Newest is the directory that holds the files of a volume at its newest version; a directory that is no volume is its own.
func newest(directory string) string {
	target, err := os.Readlink(filepath.Join(directory, "..data"))
	switch {
	case err != nil:
		return directory
	case filepath.IsAbs(target):
		return target
	default:
		return filepath.Join(directory, target)
	}
}

// Folder reads the files of a directory that have the name of a variable after the prefix. None at all is an error: the
// volume of an optional Secret that does not exist is an empty directory, and a server must not start without its
// credentials.
func (r *reading) folder(from envDirectory) ([]variable, error) {
	names, err := r.names(from.directory)
	if err != nil {
		return nil, fmt.Errorf("--env-from %s: %w", from.directory, err)
	}
	var found []variable
	for _, name := range names {
		if !isVariable(from.prefix + name) {
			continue
		}
		value, err := r.value(filepath.Join(from.directory, name))
		if err != nil {
			return nil, fmt.Errorf("--env-from %s: %w", from.directory, err)
		}
		found = append(found, variable{from.prefix + name, value})
	}
	if len(found) == 0 {
		return nil, fmt.Errorf("--env-from %s: no file there has the name of a variable", from.directory)
	}
	return found, nil
}

func (r *reading) names(directory string) ([]string, error) {
	base := r.base(directory)
	opened, err := os.Open(base)
	if err != nil {
		return nil, reason(err)
	}
	defer opened.Close()
	entries, err := opened.Readdirnames(maxFiles + 1)
	if err != nil && !errors.Is(err, io.EOF) {
		return nil, reason(err)
	}
	if len(entries) > maxFiles {
		return nil, fmt.Errorf("holds more than %d files", maxFiles)
	}
	slices.Sort(entries)
	var names []string
	for _, name := range entries {
		if strings.HasPrefix(name, ".") { // the kubelet's own links
			continue
		}
		if info, err := os.Stat(filepath.Join(base, name)); err == nil && info.Mode().IsRegular() {
			names = append(names, name)
		}
	}
	return names, nil
}

// Value is the text of a file without its last newline.
func (r *reading) value(path string) (string, error) {
	directory, name := filepath.Split(path)
	directory = filepath.Clean(directory)
	text, err := content(filepath.Join(r.base(directory), name))
	if errors.Is(err, os.ErrNotExist) { // not of the volume
		text, err = content(path)
	}
	if err != nil {
		return "", fmt.Errorf("cannot read the file %s: %w", path, reason(err))
	}
	text = bytes.TrimSuffix(bytes.TrimSuffix(text, []byte("\n")), []byte("\r"))
	switch {
	case !utf8.Valid(text):
		return "", fmt.Errorf("the file %s is not UTF-8 text", path)
	case bytes.IndexByte(text, 0) >= 0:
		return "", fmt.Errorf("the file %s holds a NUL character", path)
	case bytes.HasPrefix(text, []byte(sealedMark)):
		return "", fmt.Errorf("the file %s holds a sealed value (%s…), which is for the sidecar only; put the plain value there", path, sealedMark)
	}
	return string(text), nil
}

func content(path string) ([]byte, error) {
	opened, err := os.OpenFile(path, os.O_RDONLY|syscall.O_NONBLOCK, 0) // no waiting for whoever writes into a pipe
	if err != nil {
		return nil, err
	}
	defer opened.Close()
	if info, err := opened.Stat(); err != nil || !info.Mode().IsRegular() {
		return nil, errors.New("not a regular file")
	}
	read, err := io.ReadAll(io.LimitReader(opened, maxFileBytes+1))
	if err == nil && len(read) > maxFileBytes {
		err = fmt.Errorf("larger than %d MiB", maxFileBytes>>20)
	}
	return read, err
}

// Reason is an error without the operation and path that the os package puts in front.
func reason(err error) error {
	var path *os.PathError
	if errors.As(err, &path) {
		return path.Err
	}
	return err
}

// IsVariable tells whether a shell would take name for a variable's: the rule of the sidecar's envFrom.
func isVariable(name string) bool {
	for i, c := range name {
		letter := c == '_' || 'a' <= c && c <= 'z' || 'A' <= c && c <= 'Z'
		if !letter && (i == 0 || c < '0' || c > '9') {
			return false
		}
	}
	return name != ""
}
