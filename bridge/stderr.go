package main

import (
	"bytes"
	"fmt"
	"io"
)

const (
	// The longest line that is passed on: container runtimes split longer ones.
	maxLine = 16 << 10
	// Read beyond it, so that a secret across the cut is seen whole.
	lineSlack = 4 << 10
)

// RelayLines passes on what a process writes to stderr, line by line, cut where a line is too long. It returns at the end
// of the stream, the last line delivered though it has no newline.
func relayLines(from io.Reader, redact func([]byte) []byte, to func([]byte)) {
	buffer := make([]byte, 0, maxLine+lineSlack)
	left := 0 // bytes of the current line that were not kept
	flush := func() {
		// A copy, for the receiver keeps it.
		line := append(make([]byte, 0, len(buffer)+1), buffer...)
		line = redact(line)
		if cut := len(line) - maxLine; cut > 0 || left > 0 {
			if cut > 0 {
				line, left = line[:maxLine], left+cut
			}
			line = fmt.Appendf(line, "… [%d bytes more]", left)
		}
		to(append(line, '\n'))
		buffer, left = buffer[:0], 0
	}
	chunk := make([]byte, 8<<10)
	for {
		count, err := from.Read(chunk)
		data := chunk[:count]
		for len(data) > 0 {
			line, rest, ended := bytes.Cut(data, []byte("\n"))
			kept := min(len(line), cap(buffer)-len(buffer))
			buffer, left = append(buffer, line[:kept]...), left+len(line)-kept
			if ended {
				flush()
			}
			data = rest
		}
		if err != nil {
			if len(buffer)+left > 0 {
				flush()
			}
			return
		}
	}
}
