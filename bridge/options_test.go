package main

import (
	"bytes"
	"errors"
	"reflect"
	"strings"
	"testing"
	"time"
)

func TestOptions(t *testing.T) {
	options, err := parseServe([]string{
		"--socket", "/run/s", "--env=A=/a", "--env", "B=/b=c", "--env-from", "/d", "--env-from=/e=P_", "--keep", "K", "--dir", "/w",
		"--max-processes", "3", "--stdin-grace=1s", "--term-grace", "250ms", "--termination-log", "/t", "--", "run", "--socket", "--", "-x",
	})
	if err != nil {
		t.Fatal(err)
	}
	want := &serveOptions{
		socket: "/run/s", env: []envFile{{"A", "/a"}, {"B", "/b=c"}}, envFrom: []envDirectory{{"/d", ""}, {"/e", "P_"}},
		keep: []string{"K"}, directory: "/w", maxProcesses: 3, stdinGrace: time.Second, termGrace: 250 * time.Millisecond,
		terminationLog: "/t", command: []string{"run", "--socket", "--", "-x"},
	}
	if !reflect.DeepEqual(options, want) {
		t.Errorf("%+v\nwant %+v", options, want)
	}
	options, err = parseServe([]string{"--socket", "s", "--", "run"})
	if err != nil || options.stdinGrace != 2*time.Second || options.termGrace != 2*time.Second || options.maxProcesses != 256 || options.terminationLog != "/dev/termination-log" {
		t.Error(options, err)
	}
}

func TestWrongUsageNamesWhatIsWrong(t *testing.T) {
	serve := func(arguments ...string) []string { return append([]string{"serve"}, arguments...) }
	for _, each := range []struct {
		arguments []string
		told      string
	}{
		{nil, "serve or install"},
		{[]string{"run"}, `"run" is neither`},
		{[]string{"install"}, "DESTINATION"},
		{[]string{"install", "a", "b"}, "got 2"},
		{[]string{"install", ""}, "DESTINATION"},
		{serve(), "--socket is missing"},
		{serve("--", "run"), "--socket is missing"},
		{serve("--socket", "s"), "command is missing"},
		{serve("--socket", "s", "--"), "command is missing"},
		{serve("--socket", "s", "--", ""), "command is missing"},
		{serve("--socket", "s", "run"), `"run" is not an option; write --`},
		{serve("--socket"), "--socket needs a value"},
		{serve("--socket", "--", "run"), "--socket needs a value"},
		{serve("--socket=", "--", "run"), "--socket needs a value"},
		{serve("--socket", strings.Repeat("x", 108), "--", "run"), "--socket is longer than 107 bytes"},
		{serve("--sock", "s"), "there is no option --sock"},
		{serve("-s", "s"), "there is no option -s"},
		{serve("--env", "A"), "--env takes NAME=FILE"},
		{serve("--env", "=/f"), "--env takes NAME=FILE"},
		{serve("--env", "A="), "--env takes NAME=FILE"},
		{serve("--env-from", "/d=1"), "--env-from takes DIR"},
		{serve("--env-from", "=P"), "--env-from takes DIR"},
		{serve("--max-processes", "0"), "--max-processes takes"},
		{serve("--max-processes", "many"), "--max-processes takes"},
		{serve("--stdin-grace", "2"), "--stdin-grace takes a time"},
		{serve("--term-grace", "-1s"), "--term-grace takes a time"},
	} {
		var stdout, stderr bytes.Buffer
		if code := run(each.arguments, &stdout, &stderr); code != exitUsage {
			t.Errorf("%q: exit code %d", each.arguments, code)
		}
		if !strings.Contains(stderr.String(), each.told) || !strings.Contains(stderr.String(), "--help") || stdout.Len() > 0 {
			t.Errorf("%q: %q, not %q", each.arguments, stderr.String(), each.told)
		}
	}
}

func TestHelpAndVersion(t *testing.T) {
	for _, arguments := range [][]string{{"--help"}, {"-h"}, {"help"}, {"serve", "--help"}, {"serve", "--socket", "s", "-h"}, {"install", "--help"}} {
		var stdout, stderr bytes.Buffer
		if code := run(arguments, &stdout, &stderr); code != 0 || stdout.String() != help || stderr.Len() > 0 {
			t.Errorf("%q: exit code %d, %q", arguments, code, stderr.String())
		}
	}
	for flag := range known {
		if !strings.Contains(help, flag) {
			t.Errorf("the help does not name %s", flag)
		}
	}
	var stdout bytes.Buffer
	if code := run([]string{"--version"}, &stdout, &stdout); code != 0 || stdout.String() != "outrigger-bridge "+version+"\n" {
		t.Error(code, stdout.String())
	}
}

type brokenWriter struct{}

func (brokenWriter) Write([]byte) (int, error) { return 0, errors.New("broken") }

func TestHelpThatCannotBeWritten(t *testing.T) {
	var stderr bytes.Buffer
	if code := run([]string{"--help"}, brokenWriter{}, &stderr); code != exitFailed || !strings.Contains(stderr.String(), "broken") {
		t.Error(code, stderr.String())
	}
}
