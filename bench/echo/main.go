// Echo is the cheap MCP server that the benchmark and the chaos tests put behind a proxy: it costs so little that the
// proxy is what saturates, and it writes down what it executed so that lost and doubled calls can be counted. It speaks
// both eras, over HTTP and over stdio. It is no example of a server: it knows five tools and no other feature.
//
//	echo http --addr 127.0.0.1:9101 [--era E] [--log FILE] [--sse]
//	echo stdio [--era dual|legacy|modern] [--log FILE] [--exit-after N] [--strict]
//
// and both with [--fault KIND --every N], see faults.go.
//
// A tools/call whose arguments have a "key" is recorded: the line "ran KEY PID" goes to FILE before the answer goes
// out, and "cancelled KEY PID" when the caller withdrew it. GET /executions counts the same by key.
package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"os"
	"strconv"
	"sync"
	"sync/atomic"
	"time"
)

const (
	modernVersion = "2026-07-28"
	newestLegacy  = "2025-11-25"
	serverInfo    = `{"name":"echo","version":"1.0.0"}`
)

var legacyVersions = map[string]bool{"2025-03-26": true, "2025-06-18": true, newestLegacy: true}

// The hints are true: only write and exit change something, and only what write does may not be repeated.
const toolsResult = `{"tools":[` +
	`{"name":"echo","description":"Answers with its text","inputSchema":{"type":"object","properties":{"text":{"type":"string"},` +
	`"key":{"type":"string"}}},"annotations":{"readOnlyHint":true,"openWorldHint":false}},` +
	`{"name":"write","description":"Answers with its text; every execution counts","inputSchema":{"type":"object","properties":` +
	`{"text":{"type":"string"},"key":{"type":"string"},"ms":{"type":"integer"}}},"annotations":{"destructiveHint":true}},` +
	`{"name":"sleep","description":"Answers after ms milliseconds, with steps notices of progress","inputSchema":{"type":"object",` +
	`"properties":{"text":{"type":"string"},"key":{"type":"string"},"ms":{"type":"integer"},"steps":{"type":"integer"}}},` +
	`"annotations":{"readOnlyHint":true}},` +
	`{"name":"fail","description":"Answers with a JSON-RPC error code, or with isError where there is none","inputSchema":` +
	`{"type":"object","properties":{"code":{"type":"integer"},"key":{"type":"string"}}},"annotations":{"idempotentHint":true,` +
	`"destructiveHint":false}},` +
	`{"name":"exit","description":"Ends the process after ms milliseconds without an answer","inputSchema":{"type":"object",` +
	`"properties":{"ms":{"type":"integer"},"key":{"type":"string"}}},"annotations":{"destructiveHint":true}}]}`

type request struct {
	ID     json.RawMessage `json:"id"`
	Method string          `json:"method"`
	fault  string
	Params struct {
		Name            string          `json:"name"`
		ProtocolVersion string          `json:"protocolVersion"`
		RequestID       json.RawMessage `json:"requestId"`
		Arguments       struct {
			Text  json.RawMessage `json:"text"`
			Key   string          `json:"key"`
			MS    int             `json:"ms"`
			Steps int             `json:"steps"`
			Code  int             `json:"code"`
		} `json:"arguments"`
		Meta struct {
			Version string          `json:"io.modelcontextprotocol/protocolVersion"`
			Token   json.RawMessage `json:"progressToken"`
		} `json:"_meta"`
	} `json:"params"`
}

// A fault is a JSON-RPC error; Go's error interface is not needed for it.
type fault struct {
	code    int
	message string
	data    string
}

type server struct {
	era       string
	strict    bool
	sse       bool
	exitAfter int64
	log       *os.File
	faults    faults
	calls     atomic.Int64
	mu        sync.Mutex
	ran       map[string]int
	sessions  map[string]bool
}

func main() {
	if len(os.Args) < 2 {
		fmt.Fprintln(os.Stderr, "usage: echo http|stdio [flags]")
		os.Exit(2)
	}
	s := &server{ran: map[string]int{}, sessions: map[string]bool{}}
	flags := flag.NewFlagSet("echo "+os.Args[1], flag.ExitOnError)
	flags.StringVar(&s.era, "era", "dual", "dual, legacy or modern")
	flags.Int64Var(&s.exitAfter, "exit-after", 0, "exit instead of answering the Nth tools/call; 0: never")
	flags.BoolVar(&s.strict, "strict", false, "exit on an unknown method, as servers on old SDKs do")
	flags.BoolVar(&s.sse, "sse", false, "answer requests over HTTP by an event stream")
	flags.StringVar(&s.faults.kind, "fault", "", "what goes wrong now and then: "+faultKinds)
	flags.Int64Var(&s.faults.every, "every", 20, "the fault comes with every Nth tools/call")
	addr := flags.String("addr", "127.0.0.1:0", "where to listen (http)")
	log := flags.String("log", "", "append executed calls to this file")
	flags.Parse(os.Args[2:])
	if !s.faults.known() {
		fmt.Fprintln(os.Stderr, "echo: the faults are", faultKinds)
		os.Exit(2)
	}
	if *log != "" {
		var err error
		if s.log, err = os.OpenFile(*log, os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o600); err != nil {
			fmt.Fprintln(os.Stderr, "echo:", err)
			os.Exit(1)
		}
	}
	var err error
	switch os.Args[1] {
	case "http":
		err = s.serveHTTP(*addr)
	case "stdio":
		err = s.serveStdio(os.Stdin, os.Stdout)
	default:
		err = errors.New("usage: echo http|stdio [flags]")
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "echo:", err)
		os.Exit(1)
	}
}

// answer gives the result of a request as JSON, or a fault. It blocks only in the tools that sleep.
func (s *server) answer(ctx context.Context, r *request, modern bool, emit func([]byte)) ([]byte, *fault) {
	switch r.Method {
	case "tools/call":
		return s.call(ctx, r, emit)
	case "tools/list":
		if modern {
			return []byte(`{"ttlMs":60000,"cacheScope":"public",` + toolsResult[1:]), nil
		}
		return []byte(toolsResult), nil
	case "server/discover":
		if modern {
			return []byte(`{"supportedVersions":["` + modernVersion + `"],"capabilities":{"tools":{}},"ttlMs":60000,` +
				`"cacheScope":"public","_meta":{"io.modelcontextprotocol/serverInfo":` + serverInfo + `}}`), nil
		}
	case "initialize":
		if !modern {
			version := r.Params.ProtocolVersion
			if !legacyVersions[version] {
				version = newestLegacy
			}
			return []byte(`{"protocolVersion":"` + version + `","capabilities":{"tools":{}},"serverInfo":` + serverInfo + `}`), nil
		}
	case "ping":
		if !modern {
			return []byte(`{}`), nil
		}
	}
	if s.strict {
		os.Exit(1)
	}
	return nil, &fault{-32601, "Method not found", ""}
}

func (s *server) call(ctx context.Context, r *request, emit func([]byte)) ([]byte, *fault) {
	a := &r.Params.Arguments
	if r.fault = s.faults.next(); r.fault == "refused" {
		return nil, &fault{-32603, "Failed as asked", ""}
	}
	s.record("ran", a.Key)
	if n := s.calls.Add(1); s.exitAfter > 0 && n >= s.exitAfter {
		os.Exit(1)
	}
	switch r.Params.Name {
	case "echo":
	case "write", "sleep", "exit":
		if !s.sleep(ctx, r, emit) {
			s.record("cancelled", a.Key)
			return nil, &fault{-32800, "Cancelled", ""}
		}
		if r.Params.Name == "exit" {
			os.Exit(1)
		}
	case "fail":
		if a.Code != 0 {
			return nil, &fault{a.Code, "Failed as asked", ""}
		}
		return []byte(`{"content":[{"type":"text","text":"failed as asked"}],"isError":true}`), nil
	default:
		return nil, &fault{-32602, "Unknown tool", ""}
	}
	switch r.fault {
	case "exit":
		os.Exit(1)
	case "internal":
		return nil, &fault{-32603, "Failed as asked", ""}
	}
	text := a.Text
	if len(text) == 0 {
		text = json.RawMessage(`""`)
	}
	result := make([]byte, 0, len(text)+48)
	result = append(result, `{"content":[{"type":"text","text":`...)
	result = append(result, text...)
	return append(result, `}]}`...), nil
}

// sleep waits as the arguments say; false when the caller withdrew the call.
func (s *server) sleep(ctx context.Context, r *request, emit func([]byte)) bool {
	a := &r.Params.Arguments
	steps := max(a.Steps, 1)
	for step := 1; step <= steps && a.MS > 0; step++ {
		select {
		case <-ctx.Done():
			return false
		case <-time.After(time.Duration(a.MS) * time.Millisecond / time.Duration(steps)):
		}
		if a.Steps > 0 && len(r.Params.Meta.Token) > 0 {
			emit([]byte(`{"jsonrpc":"2.0","method":"notifications/progress","params":{"progressToken":` +
				string(r.Params.Meta.Token) + `,"progress":` + strconv.Itoa(step) + `,"total":` + strconv.Itoa(steps) + `}}`))
		}
	}
	return true
}

func (s *server) record(event, key string) {
	if key == "" {
		return
	}
	if s.log != nil {
		// one write each: what a killed process executed stays recorded
		fmt.Fprintf(s.log, "%s %s %d\n", event, key, os.Getpid())
	}
	if event == "ran" {
		s.mu.Lock()
		s.ran[key]++
		s.mu.Unlock()
	}
}

func message(r *request, result []byte, f *fault, modern bool) []byte {
	id := r.ID
	if len(id) == 0 {
		id = json.RawMessage("null")
	}
	out := make([]byte, 0, len(result)+len(id)+96)
	out = append(out, `{"jsonrpc":"2.0","id":`...)
	out = append(out, id...)
	if f != nil {
		out = fmt.Appendf(out, `,"error":{"code":%d,"message":%q`, f.code, f.message)
		if f.data != "" {
			out = append(append(out, `,"data":`...), f.data...)
		}
		return append(out, `}}`...)
	}
	out = append(out, `,"result":`...)
	if modern {
		out = append(out, `{"resultType":"complete",`...)
		result = result[1:]
	}
	return append(append(out, result...), '}')
}

// eraOf tells whether a request is a modern one, and refuses what --era leaves out.
func (s *server) eraOf(r *request) (bool, *fault) {
	version := r.Params.Meta.Version
	modern := version != "" || r.Method == "server/discover"
	if modern && s.era == "legacy" {
		return false, &fault{-32600, "Bad Request: no session", ""}
	}
	if modern && version != modernVersion || !modern && s.era == "modern" && len(r.ID) > 0 {
		return true, &fault{-32022, "Unsupported protocol version",
			fmt.Sprintf(`{"supported":[%q],"requested":%q}`, modernVersion, version)}
	}
	return modern, nil
}
