package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"io"
	"os"
	"sync"
)

// serveStdio answers what is quick in the order it came and what sleeps as it gets ready.
func (s *server) serveStdio(in io.Reader, out io.Writer) error {
	reader, writer := bufio.NewReaderSize(in, 1<<16), bufio.NewWriterSize(out, 1<<16)
	var lock sync.Mutex
	put := func(line []byte, flush bool) {
		if line == nil {
			return
		}
		lock.Lock()
		writer.Write(line)
		writer.WriteByte('\n')
		if flush {
			writer.Flush()
		}
		lock.Unlock()
	}
	cancels := sync.Map{}
	for {
		// answers leave together, and none waits for a line that has yet to come
		if read, _ := reader.Peek(reader.Buffered()); bytes.IndexByte(read, '\n') < 0 {
			lock.Lock()
			writer.Flush()
			lock.Unlock()
		}
		line, err := reader.ReadBytes('\n')
		if err != nil {
			return nil // stdin closed: the one graceful end
		}
		var r request
		if json.Unmarshal(line, &r) != nil {
			put(message(&r, nil, &fault{-32700, "Parse error", ""}, false), false)
			continue
		}
		if len(r.ID) == 0 {
			if cancel, ok := cancels.Load(string(r.Params.RequestID)); ok && r.Method == "notifications/cancelled" {
				cancel.(context.CancelFunc)()
			}
			continue
		}
		modern, refused := s.eraOf(&r)
		if refused != nil && s.strict {
			os.Exit(1)
		}
		if refused != nil {
			put(message(&r, nil, refused, modern), false)
			continue
		}
		if r.Method == "tools/call" && r.Params.Arguments.MS > 0 {
			ctx, cancel := context.WithCancel(context.Background())
			cancels.Store(string(r.ID), cancel)
			go func() {
				result, f := s.answer(ctx, &r, modern, func(m []byte) { put(m, true) })
				cancels.Delete(string(r.ID))
				if ctx.Err() == nil {
					put(spoilLine(r.fault, message(&r, result, f, modern)), true)
				}
				cancel()
			}()
			continue
		}
		result, f := s.answer(context.Background(), &r, modern, nil)
		put(spoilLine(r.fault, message(&r, result, f, modern)), false)
	}
}
