package main

import (
	"errors"
	"io"
	"os"
	"path/filepath"
)

const programName = "outrigger-bridge"

// Install copies this program to destination and makes it executable for everybody. The copy appears under its name whole
// or not at all, so a container that is killed on the way and starts again finds nothing half done, and a program that
// runs under that name goes on undisturbed.
func install(destination string) error {
	if info, err := os.Stat(destination); err == nil && info.IsDir() {
		destination = filepath.Join(destination, programName)
	}
	// Not os.Executable: the name may have been taken by another file since we started.
	source, err := os.Open("/proc/self/exe")
	if err != nil {
		return fail(exitFailed, "cannot read this program: %v", err)
	}
	defer source.Close()
	partial := destination + ".partial"
	_ = os.Remove(partial) // of a container that was killed; what stays is told below
	if err := copyTo(partial, source); err != nil {
		_ = os.Remove(partial)
		return fail(exitFailed, "cannot install: %v", err)
	}
	if err := os.Rename(partial, destination); err != nil {
		_ = os.Remove(partial)
		return fail(exitFailed, "cannot install: %v", err)
	}
	return nil
}

func copyTo(path string, source io.Reader) error {
	file, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o755)
	if err != nil {
		return err
	}
	_, err = io.Copy(file, source)
	// The umask may have taken rights of others, who are to run it.
	err = errors.Join(err, file.Chmod(0o755))
	return errors.Join(err, file.Close())
}
