package main

import (
	"crypto/rand"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
)

func (s *server) serveHTTP(addr string) error {
	listener, err := net.Listen("tcp", addr)
	if err != nil {
		return err
	}
	fmt.Fprintln(os.Stderr, "listening on", listener.Addr())
	mux := http.NewServeMux()
	mux.HandleFunc("/mcp", s.post)
	mux.HandleFunc("/executions", func(w http.ResponseWriter, _ *http.Request) {
		s.mu.Lock()
		defer s.mu.Unlock()
		json.NewEncoder(w).Encode(s.ran)
	})
	return (&http.Server{Handler: mux}).Serve(listener)
}

// post serves both eras on one path, without the GET stream, which a server may leave out.
func (s *server) post(w http.ResponseWriter, h *http.Request) {
	header, session := h.Header, h.Header.Get("Mcp-Session-Id")
	if h.Method == "DELETE" && session != "" {
		s.mu.Lock()
		delete(s.sessions, session)
		s.mu.Unlock()
		return
	}
	if h.Method != "POST" {
		w.WriteHeader(http.StatusMethodNotAllowed)
		return
	}
	body, err := io.ReadAll(h.Body)
	var r request
	if err != nil || json.Unmarshal(body, &r) != nil {
		send(w, 400, message(&r, nil, &fault{-32700, "Parse error", ""}, false))
		return
	}
	modern, refused := s.eraOf(&r)
	if refused == nil && modern && (header.Get("Mcp-Protocol-Version") != r.Params.Meta.Version ||
		header.Get("Mcp-Method") != r.Method || (r.Method == "tools/call" && header.Get("Mcp-Name") != r.Params.Name)) {
		refused = &fault{-32020, "Header mismatch", ""}
	}
	if refused != nil {
		send(w, 400, message(&r, nil, refused, modern))
		return
	}
	if !modern && r.Method == "initialize" {
		session = rand.Text()
		s.mu.Lock()
		s.sessions[session] = true
		s.mu.Unlock()
		w.Header()["Mcp-Session-Id"] = []string{session}
	} else if !modern {
		s.mu.Lock()
		known := s.sessions[session]
		s.mu.Unlock()
		if !known {
			status := 404
			if session == "" {
				status = 400
			}
			send(w, status, message(&r, nil, &fault{-32001, "Session not found", ""}, false))
			return
		}
	}
	if len(r.ID) == 0 {
		w.WriteHeader(http.StatusAccepted)
		return
	}
	streaming := false
	event := func(data []byte) {
		if !streaming {
			w.Header()["Content-Type"] = []string{"text/event-stream"}
			streaming = true
		}
		fmt.Fprintf(w, "event: message\ndata: %s\n\n", data)
		w.(http.Flusher).Flush()
	}
	result, failure := s.answer(h.Context(), &r, modern, event)
	answer := message(&r, result, failure, modern)
	switch {
	case r.fault == "silent":
		<-h.Context().Done()
	case r.fault != "" && r.fault != "internal":
		s.spoil(w, r.fault, answer)
	case streaming || s.sse:
		event(answer)
	case modern && failure != nil && failure.code == -32601:
		send(w, 404, answer)
	case modern && failure != nil && failure.code == -32602:
		send(w, 400, answer)
	default:
		send(w, 200, answer)
	}
}

func send(w http.ResponseWriter, status int, body []byte) {
	w.Header()["Content-Type"] = []string{"application/json"}
	w.WriteHeader(status)
	w.Write(body)
}
