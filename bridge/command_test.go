package main

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestLookUp(t *testing.T) {
	root := t.TempDir()
	for name, mode := range map[string]os.FileMode{"a/tool": 0o644, "b/tool": 0o755, "work/bin/tool": 0o755, "a/plain": 0o644, "a/folder/x": 0o755} {
		path := filepath.Join(root, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, nil, mode); err != nil {
			t.Fatal(err)
		}
	}
	script := func(name, line string) string {
		path := filepath.Join(root, name)
		if err := os.WriteFile(path, []byte(line), 0o755); err != nil {
			t.Fatal(err)
		}
		return path
	}
	at := func(name string) string { return filepath.Join(root, name) }
	path := at("none") + ":" + at("a") + ":" + at("b")
	for _, each := range []struct {
		command, directory, path string
		file                     string
		code                     int
		told                     string
	}{
		{command: "tool", path: path, file: at("b/tool")},
		{command: at("b/tool"), file: at("b/tool")},
		{command: "bin/tool", directory: at("work"), file: at("work/bin/tool")},
		{command: "tool", directory: at("work"), path: "bin", file: at("work/bin/tool")},
		{command: "tool", path: at("a"), code: exitNotExecutable, told: "is not executable by user"},
		{command: "folder", path: path, code: exitNotFound, told: "command not found: folder; set spec.stdio.command"},
		{command: "none", path: path, code: exitNotFound, told: "(PATH there: " + path + ")"},
		{command: "no-such-command-anywhere", code: exitNotFound, told: "(PATH there: " + defaultPath + ")"},
		{command: "./none", directory: at("work"), code: exitNotFound, told: "command not found: ./none"},
		{command: "tool", directory: at("absent"), path: path, code: exitNotExecutable, told: "the working directory"},
		{command: "tool", directory: at("a/tool"), path: path, code: exitNotExecutable, told: "set spec.stdio.workingDir"},
		{command: script("good", "#! /proc/self/exe  --flag\n"), file: at("good")},
		{command: script("empty", "#!\n"), file: at("empty")},
		{command: script("env", "#!/no/such/env node\n"), code: exitNotFound, told: "is to be run by \"/no/such/env\", which the server's image lacks"},
		{command: script("dos", "#!/proc/self/exe\r\n"), code: exitNotFound, told: "is to be run by \"/proc/self/exe\\r\","},
	} {
		file, err := lookUp(each.command, each.directory, each.path)
		var failed *failure
		if errors.As(err, &failed) {
			if failed.code != each.code || !strings.Contains(failed.message, each.told) {
				t.Errorf("%s: %d %s", each.command, failed.code, failed.message)
			}
		} else if each.code != 0 || file != each.file {
			t.Errorf("%s: %s", each.command, file)
		}
	}
}
