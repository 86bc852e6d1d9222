package main

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
)

func TestInstall(t *testing.T) {
	old := syscall.Umask(0o077)
	defer syscall.Umask(old)
	directory := t.TempDir()
	own := must(os.ReadFile("/proc/self/exe"))
	for _, destination := range []string{filepath.Join(directory, "bridge"), directory} {
		for range 2 { // the container starts again
			var out bytes.Buffer
			if code := run([]string{"install", destination}, &out, &out); code != 0 || out.Len() > 0 {
				t.Fatal(code, out.String())
			}
		}
	}
	for _, name := range []string{"bridge", "outrigger-bridge"} {
		path := filepath.Join(directory, name)
		if mode := must(os.Stat(path)).Mode(); mode != 0o755 {
			t.Errorf("%s: %v", name, mode)
		}
		if !bytes.Equal(own, must(os.ReadFile(path))) {
			t.Errorf("%s is not the same", name)
		}
	}
	if entries := must(os.ReadDir(directory)); len(entries) != 2 {
		t.Error(entries)
	}
}

func TestInstallOverOneThatRunsAndOneThatWasKilled(t *testing.T) {
	destination := filepath.Join(t.TempDir(), "bridge")
	if err := install(destination); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(destination+".partial", []byte("half"), 0o400); err != nil {
		t.Fatal(err)
	}
	running := exec.Command(destination, asBridge, "serve", "--socket", filepath.Join(t.TempDir(), "s"), "--", serverProgram, "copy")
	if err := running.Start(); err != nil {
		t.Fatal(err)
	}
	defer running.Wait()
	defer running.Process.Kill()
	if err := install(destination); err != nil {
		t.Fatal(err)
	}
	if got := must(os.Stat(destination)).Size(); got != must(os.Stat("/proc/self/exe")).Size() {
		t.Error(got)
	}
	if _, err := os.Lstat(destination + ".partial"); !os.IsNotExist(err) {
		t.Error(err)
	}
}

func TestInstallThatCannot(t *testing.T) {
	directory := t.TempDir()
	if err := os.Mkdir(filepath.Join(directory, "x.partial"), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(directory, "x.partial", "y"), nil, 0o644); err != nil {
		t.Fatal(err)
	}
	for destination, told := range map[string]string{
		filepath.Join(directory, "absent", "bridge"): "no such file or directory",
		"/dev/full/bridge":                           "not a directory",
		filepath.Join(directory, "x"):                "file exists",
	} {
		var out bytes.Buffer
		if code := run([]string{"install", destination}, &out, &out); code != exitFailed || !strings.Contains(out.String(), told) {
			t.Errorf("%s: %d %s", destination, code, out.String())
		}
	}
}
