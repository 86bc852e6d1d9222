package main

import (
	"bytes"
	"fmt"
	"net"
	"net/http"
	"strings"
	"sync/atomic"
)

// Faults that --fault KIND injects into every --every-th tools/call. "ran" says whether the tool runs all the same.
//
//	refused   HTTP 500, 502, 503 and 429 in turn, not JSON; stdio: -32603                   not ran
//	internal  a JSON-RPC error -32603                                                       ran
//	silent    no answer, ever                                                               ran
//	exit      the process ends                                                              ran
//	reset     the connection is reset (HTTP)                                                ran
//	twice     the answer, then another that nobody asked for                                ran
//	length    a Content-Length that is too small (HTTP)                                     ran
//	garbage   lines that are no JSON, one of them not even UTF-8, before the answer (stdio) ran
const faultKinds = "refused internal silent exit reset twice length garbage"

type faults struct {
	kind  string
	every int64
	calls atomic.Int64
}

// next tells the fault of the next tools/call: its kind, or "" for none.
func (f *faults) next() string {
	if f.kind != "" && f.calls.Add(1)%f.every == 0 {
		return f.kind
	}
	return ""
}

func (f *faults) known() bool {
	return f.kind == "" || f.every > 0 && strings.Contains(" "+faultKinds+" ", " "+f.kind+" ")
}

var refusals = []int{500, 502, 503, 429}

// spoil answers over HTTP in the way of a fault.
func (s *server) spoil(w http.ResponseWriter, kind string, answer []byte) {
	switch kind {
	case "refused":
		status := refusals[s.faults.calls.Load()/s.faults.every%int64(len(refusals))]
		w.Header().Set("Retry-After", "0")
		http.Error(w, "<html>no</html>", status)
		return
	}
	conn, _, err := w.(http.Hijacker).Hijack()
	if err != nil {
		return
	}
	defer conn.Close()
	length := len(answer)
	switch kind {
	case "reset":
		conn.(*net.TCPConn).SetLinger(0)
		return
	case "length":
		length -= 7
	}
	head := "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%s"
	out := fmt.Appendf(nil, head, length, answer)
	if kind == "twice" {
		other := bytes.Replace(answer, []byte(`"id":`), []byte(`"id":1`), 1)
		out = fmt.Appendf(out, head, len(other), other)
	}
	conn.Write(out)
}

// spoilLine gives the lines of an answer over stdio in the way of a fault, without the last newline; nil for none.
func spoilLine(kind string, answer []byte) []byte {
	switch kind {
	case "silent":
		return nil
	case "twice":
		other := bytes.Replace(answer, []byte(`"id":`), []byte(`"id":1`), 1)
		return bytes.Join([][]byte{answer, answer, other}, []byte("\n"))
	case "garbage":
		return bytes.Join([][]byte{[]byte("npm warn something"), {0xff, 0xfe, '{'}, []byte(`{"half":`), answer}, []byte("\n"))
	}
	return answer
}
