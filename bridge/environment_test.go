package main

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
)

// Volume writes files as the kubelet does: into a new directory, reached through ..data, which is moved in one step.
type volume struct {
	t         *testing.T
	directory string
	version   int
}

func newVolume(t *testing.T, files map[string]string) *volume {
	v := &volume{t: t, directory: t.TempDir()}
	v.update(files)
	for name := range files {
		if err := os.Symlink(filepath.Join("..data", name), filepath.Join(v.directory, name)); err != nil {
			t.Fatal(err)
		}
	}
	return v
}

func (v *volume) update(files map[string]string) {
	v.version++
	name := fmt.Sprintf("..2026_%d", v.version)
	old, _ := os.Readlink(filepath.Join(v.directory, "..data"))
	check := func(err error) {
		if err != nil {
			v.t.Error(err)
		}
	}
	check(os.Mkdir(filepath.Join(v.directory, name), 0o755))
	for file, text := range files {
		check(os.WriteFile(filepath.Join(v.directory, name, file), []byte(text), 0o644))
	}
	check(os.Symlink(name, filepath.Join(v.directory, "..data_tmp")))
	check(os.Rename(filepath.Join(v.directory, "..data_tmp"), filepath.Join(v.directory, "..data")))
	if old != "" {
		check(os.RemoveAll(filepath.Join(v.directory, old)))
	}
}

func (v *volume) at(name string) string { return filepath.Join(v.directory, name) }

func plainFile(t *testing.T, text string) string {
	path := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

func TestEnvironmentOfAProcess(t *testing.T) {
	secret := newVolume(t, map[string]string{"TOKEN": "from-a\n", "lower_case": "b", "not.a.variable": "c", "9": "d", "KEPT": "volume", "HOME": "volume"})
	other := newVolume(t, map[string]string{"TOKEN": "from-b", "9": "nine"})
	e := &environment{
		own:     []string{"PATH=/bin", "KEPT=own", "HOME=/", "EMPTY=", "=C:", "EQUALS=a=b", "DIRECT=own"},
		folders: []envDirectory{{secret.directory, ""}, {other.directory, "P_"}, {other.directory, ""}},
		files:   []envFile{{"DIRECT", plainFile(t, "two\nlines\r\n")}, {"NONE", plainFile(t, "\n")}, {"lower_case", plainFile(t, "file")}},
		keep:    []string{"KEPT", "ABSENT"},
	}
	variables, secrets, err := e.read()
	if err != nil {
		t.Fatal(err)
	}
	slices.Sort(variables)
	want := []string{
		"DIRECT=two\nlines", "EMPTY=", "EQUALS=a=b", "HOME=volume", "KEPT=own", "NONE=", "PATH=/bin", "P_9=nine",
		"P_TOKEN=from-b", "TOKEN=from-b", "lower_case=file",
	}
	if !slices.Equal(variables, want) {
		t.Errorf("%q\nwant %q", variables, want)
	}
	for _, value := range []string{"two\nlines", "from-b", "nine"} {
		if !slices.Contains(secrets, value) {
			t.Errorf("%q does not count as secret", value)
		}
	}
	if slices.Contains(secrets, "own") {
		t.Error("what is not from a file counts as secret")
	}
}

func TestRotatedVolumeIsReadAtOneVersion(t *testing.T) {
	files := func(version int) map[string]string {
		made := make(map[string]string)
		for _, name := range []string{"A", "B", "C", "D"} {
			made[name] = fmt.Sprint(version)
		}
		return made
	}
	v := newVolume(t, files(0))
	e := &environment{folders: []envDirectory{{v.directory, ""}}, files: []envFile{{"X", v.at("A")}, {"Y", v.at("D")}}}
	var over atomic.Bool
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		for version := 1; !over.Load(); version++ {
			v.update(files(version))
		}
	}()
	mixed, failed := 0, 0
	for range 2000 {
		variables, _, err := e.read()
		if err != nil {
			failed++ // it changed at every try: rare, told, and tried anew by the sidecar
			continue
		}
		seen := make(map[string]bool)
		for _, entry := range variables {
			_, value, _ := strings.Cut(entry, "=")
			seen[value] = true
		}
		if len(seen) != 1 || len(variables) != 6 {
			mixed++
		}
	}
	over.Store(true)
	<-ended
	if mixed > 0 || failed > 1000 {
		t.Errorf("%d mixed, %d failed of 2000", mixed, failed)
	}
}

func TestEnvironmentThatCannotBeRead(t *testing.T) {
	pipe := filepath.Join(t.TempDir(), "pipe")
	if err := syscall.Mkfifo(pipe, 0o600); err != nil {
		t.Fatal(err)
	}
	unnamed := newVolume(t, map[string]string{"not.a.variable": "value"})
	broken := newVolume(t, map[string]string{"GOOD": "value", "BAD": "value\x00value"})
	for _, each := range []struct {
		environment environment
		told        string
	}{
		{environment{files: []envFile{{"TOKEN", "/no/such/file"}}}, "--env TOKEN: cannot read the file /no/such/file: no such file or directory"},
		{environment{files: []envFile{{"TOKEN", "/proc"}}}, "--env TOKEN: cannot read the file /proc: not a regular file"},
		{environment{files: []envFile{{"TOKEN", pipe}}}, "not a regular file"},
		{environment{files: []envFile{{"TOKEN", plainFile(t, "a\xffvalue")}}}, "is not UTF-8 text"},
		{environment{files: []envFile{{"TOKEN", plainFile(t, "a\x00value")}}}, "holds a NUL character"},
		{environment{files: []envFile{{"TOKEN", plainFile(t, "fernet:v1:abcvalue")}}}, "holds a sealed value (fernet:v1:…)"},
		{environment{files: []envFile{{"TOKEN", plainFile(t, strings.Repeat("value", 1<<18))}}}, "larger than 1 MiB"},
		{environment{folders: []envDirectory{{"/no/such", ""}}}, "--env-from /no/such: no such file or directory"},
		{environment{folders: []envDirectory{{t.TempDir(), ""}}}, "no file there has the name of a variable"},
		{environment{folders: []envDirectory{{unnamed.directory, "P_"}}}, "no file there has the name of a variable"},
		{environment{folders: []envDirectory{{broken.directory, ""}}}, "BAD holds a NUL character"},
	} {
		_, _, err := each.environment.read()
		if err == nil || !strings.Contains(err.Error(), each.told) {
			t.Errorf("%v, not %q", err, each.told)
		}
		if err != nil && strings.Contains(err.Error(), "value\x00") || err != nil && strings.Contains(err.Error(), "abcvalue") {
			t.Errorf("a value is told: %v", err)
		}
	}
}
