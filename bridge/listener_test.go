package main

import (
	"net"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
)

func TestSocketIsForItsUserAndGroup(t *testing.T) {
	old := syscall.Umask(0o022)
	defer syscall.Umask(old)
	path := filepath.Join(t.TempDir(), "s")
	listener, err := listen(path)
	if err != nil {
		t.Fatal(err)
	}
	if mode := must(os.Lstat(path)).Mode(); mode != os.ModeSocket|0o660 {
		t.Error(mode)
	}
	if umask := syscall.Umask(0o022); umask != 0o022 {
		t.Errorf("the umask is %o now", umask)
	}
	if _, err := listen(path); err == nil || !strings.Contains(err.Error(), "another program does") {
		t.Errorf("somebody listens: %v", err)
	}
	_ = listener.SetDeadline(past)
	if _, err := listener.Accept(); !os.IsTimeout(err) {
		t.Errorf("the question connected: %v", err)
	}
	listener.Close()
	if _, err := os.Lstat(path); !os.IsNotExist(err) {
		t.Error(err)
	}
}

func TestSocketOfAKilledBridgeIsReplaced(t *testing.T) {
	path := filepath.Join(t.TempDir(), "s")
	left, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
	if err != nil {
		t.Fatal(err)
	}
	left.SetUnlinkOnClose(false)
	left.Close()
	if _, err := net.Dial("unix", path); err == nil {
		t.Fatal("it is not dead")
	}
	listener, err := listen(path)
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	if _, err := net.Dial("unix", path); err != nil {
		t.Error(err)
	}
}

func TestSocketThatCannotBeMade(t *testing.T) {
	directory := t.TempDir()
	file := filepath.Join(directory, "file")
	if err := os.WriteFile(file, []byte("precious"), 0o600); err != nil {
		t.Fatal(err)
	}
	link := filepath.Join(directory, "link")
	if err := os.Symlink(file, link); err != nil {
		t.Fatal(err)
	}
	for path, told := range map[string]string{
		file: "there is a file that is no socket", link: "there is a file that is no socket",
		directory: "no socket", filepath.Join(directory, "absent", "s"): "no such file or directory",
	} {
		if _, err := listen(path); err == nil || !strings.Contains(err.Error(), told) || !strings.Contains(err.Error(), path) {
			t.Errorf("%s: %v", path, err)
		}
	}
	if text := must(os.ReadFile(file)); string(text) != "precious" {
		t.Error("it was touched")
	}
}
