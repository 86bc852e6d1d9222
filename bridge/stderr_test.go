package main

import (
	"encoding/base64"
	"fmt"
	"strings"
	"syscall"
	"testing"
	"testing/iotest"
	"time"
)

var past = time.Now()

func relayed(text string, redact func([]byte) []byte) []string {
	var lines []string
	relayLines(iotest.OneByteReader(strings.NewReader(text)), redact, func(line []byte) { lines = append(lines, string(line)) })
	var again []string
	relayLines(strings.NewReader(text), redact, func(line []byte) { again = append(again, string(line)) })
	if fmt.Sprint(lines) != fmt.Sprint(again) {
		panic("it depends on how it is read")
	}
	return lines
}

func TestLinesOfStderr(t *testing.T) {
	same := func(line []byte) []byte { return line }
	long := strings.Repeat("x", maxLine)
	for text, want := range map[string][]string{
		"":                                 {},
		"one\ntwo\n":                       {"one\n", "two\n"},
		"one\n\nno newline":                {"one\n", "\n", "no newline\n"},
		long + "\nnext\n":                  {long + "\n", "next\n"},
		long + "yz\nnext":                  {long + "… [2 bytes more]\n", "next\n"},
		strings.Repeat("x", 100000) + "\n": {long + fmt.Sprintf("… [%d bytes more]\n", 100000-maxLine)},
	} {
		if got := relayed(text, same); fmt.Sprint(got) != fmt.Sprint(want) {
			t.Errorf("%.40q… gives %d lines", text, len(got))
		}
	}
}

func TestSecretAcrossTheCutOfALine(t *testing.T) {
	secret := "correct-horse-battery"
	redact := newRedactor([]string{secret}).redact
	for offset := maxLine - 30; offset < maxLine+30; offset++ {
		got := strings.Join(relayed(strings.Repeat("x", offset)+secret+strings.Repeat("y", 9000)+"\n", redact), "")
		for size := 5; size <= len(secret); size++ {
			if strings.Contains(got, secret[:size]) {
				t.Fatalf("at %d: %q is there", offset, secret[:size])
			}
		}
	}
}

func TestSecretsAreKnownInEveryForm(t *testing.T) {
	pem := "-----BEGIN KEY-----\nMIIEvQIBADANBgkqhkiG9w0B\nAQEFAASCBKcwggSjAgEAAoIB\n-----END KEY-----"
	r := newRedactor([]string{"p@ss/w\"rd+1", " padded-value ", "Bearer abcdef123456", "short", pem, "p@ss/w\"rd+1-and-more"})
	for _, line := range []string{
		`password p@ss/w"rd+1.`, "url postgres://u:p%40ss%2Fw%22rd%2B1@host/", `json {"p":"p@ss/w\"rd+1"}`,
		"basic " + base64.StdEncoding.EncodeToString([]byte("user:p@ss/w\"rd+1")), "alone " + base64.RawURLEncoding.EncodeToString([]byte("p@ss/w\"rd+1")),
		"x padded-value x", "x abcdef123456 x", "x MIIEvQIBADANBgkqhkiG9w0B x",
	} {
		if got := string(r.redact([]byte(line))); !strings.Contains(got, mask) {
			t.Errorf("%q", got)
		}
	}
	if got := string(r.redact([]byte(`a short p@ss/w"rd+1-and-more`))); got != "a short "+mask {
		t.Errorf("%q", got)
	}
}

func TestSignalNames(t *testing.T) {
	for status, told := range map[exitStatus]string{
		{}: "exited with status 0", {code: 3}: "exited with status 3", {signal: syscall.SIGSEGV}: "was killed by SIGSEGV",
		{signal: 40}: "was killed by signal 40",
	} {
		if status.String() != told {
			t.Error(status)
		}
	}
}
