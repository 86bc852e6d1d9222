package main

import (
	"bytes"
	"encoding/base64"
	"fmt"
	"sort"
	"strings"
)

const (
	mask = "***"
	// Shorter values stay: taking "true" or "8080" out of every line would help nobody.
	minSecret = 6
)

// A redactor takes the secrets of one process out of its stderr. The last line of defence, with the rules of the sidecar's
// own: values as they are and as they look in URLs, JSON and base64.
type redactor struct{ forms [][]byte }

func newRedactor(secrets []string) *redactor {
	found := make(map[string]bool)
	for _, secret := range secrets {
		for _, part := range parts(secret) {
			if len(part) < minSecret {
				continue
			}
			for _, form := range append(base64Forms(part), part, percentEncoded(part), jsonEscaped(part)) {
				found[form] = true
			}
		}
	}
	r := &redactor{}
	for form := range found {
		r.forms = append(r.forms, []byte(form))
	}
	// Longest first: a value that holds another must go as a whole.
	sort.Slice(r.forms, func(i, j int) bool {
		if len(r.forms[i]) != len(r.forms[j]) {
			return len(r.forms[i]) > len(r.forms[j])
		}
		return bytes.Compare(r.forms[i], r.forms[j]) < 0
	})
	return r
}

// Redact returns the line with every known secret replaced.
func (r *redactor) redact(line []byte) []byte {
	for _, form := range r.forms {
		if bytes.Contains(line, form) {
			line = bytes.ReplaceAll(line, form, []byte(mask))
		}
	}
	return line
}

// Parts of a value that are secret by themselves: what follows a scheme as in "Bearer abc", and the lines of a PEM, which
// stderr shows one by one.
func parts(secret string) []string {
	found := []string{secret, strings.TrimSpace(secret)}
	if scheme, rest, ok := strings.Cut(secret, " "); ok {
		switch strings.ToLower(scheme) {
		case "bearer", "basic", "token", "digest":
			found = append(found, strings.TrimSpace(rest))
		}
	}
	if lines := strings.Split(secret, "\n"); len(lines) > 1 {
		for _, line := range lines {
			if line = strings.TrimSpace(line); len(line) >= 16 {
				found = append(found, line)
			}
		}
	}
	return found
}

func percentEncoded(text string) string {
	var out strings.Builder
	for _, c := range []byte(text) {
		letter := c|0x20 >= 'a' && c|0x20 <= 'z' || c >= '0' && c <= '9'
		if letter || strings.IndexByte("-_.~", c) >= 0 {
			out.WriteByte(c)
		} else {
			fmt.Fprintf(&out, "%%%02X", c)
		}
	}
	return out.String()
}

func jsonEscaped(text string) string {
	return strings.NewReplacer(`\`, `\\`, `"`, `\"`, "\n", `\n`, "\r", `\r`, "\t", `\t`).Replace(text)
}

// Base64Forms is the text in base64, alone and inside something longer: three alignments, without the characters that
// neighbours would change.
func base64Forms(text string) []string {
	var found []string
	for shift := range 3 {
		encoded := base64.StdEncoding.EncodeToString([]byte(strings.Repeat("\x00", shift) + text))
		core := encoded[(8*shift+5)/6 : (8*shift+8*len(text))/6]
		if len(core) >= 8 {
			found = append(found, core, strings.NewReplacer("+", "-", "/", "_").Replace(core))
		}
	}
	return found
}
