package main

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"strconv"
	"strings"
	"time"
)

const meta = `"_meta":{"io.modelcontextprotocol/protocolVersion":"2026-07-28","io.modelcontextprotocol/clientInfo":` +
	`{"name":"load","version":"1"},"io.modelcontextprotocol/clientCapabilities":{}}`

// A caller is one connection that has one call open at a time, as the connections of an HTTP client are.
type caller struct {
	o       *options
	session string
	conn    net.Conn
	reader  *bufio.Reader
	body    []byte
	request []byte
	answer  []byte
}

// An outcome is "ok", "wrong" (the answer to another call), "tool_error", "rpc" (a JSON-RPC error), "http" (a status
// without a JSON-RPC body), "lost" (the connection ended without an answer), "hung" (none in time) or "connect".
type outcome struct {
	kind   string
	detail string
}

func (c *caller) call(id int64, tool, key string) outcome {
	c.body = fmt.Appendf(c.body[:0], `{"jsonrpc":"2.0","id":%d,"method":"tools/call","params":{"name":"%s","arguments":{"text":"%d-%s"`,
		id, tool, id, c.o.text)
	if key != "" {
		c.body = fmt.Appendf(c.body, `,"key":"%s"`, key)
	}
	if c.o.ms > 0 {
		c.body = fmt.Appendf(c.body, `,"ms":%d`, c.o.ms)
	}
	c.body = append(c.body, '}')
	if c.o.modern {
		c.body = append(append(c.body, ','), meta...)
	}
	c.body = append(c.body, `}}`...)
	status, _, err := c.exchange("POST", "tools/call", tool)
	if err != nil {
		var connect *net.OpError
		var timeout net.Error
		switch {
		case errors.As(err, &connect) && connect.Op == "dial":
			return outcome{"connect", err.Error()}
		case errors.As(err, &timeout) && timeout.Timeout():
			return outcome{"hung", err.Error()}
		}
		return outcome{"lost", err.Error()}
	}
	return c.judge(status, id)
}

// judge checks the answer in the cheapest way that is certain for answers as most servers write them.
func (c *caller) judge(status int, id int64) outcome {
	number := strconv.AppendInt(nil, id, 10)
	text := append(append([]byte(`"`), number...), '-')
	text = append(append(text, c.o.text...), '"')
	plain := append(append([]byte(`"id":`), number...), ',')
	if status == 200 && bytes.Contains(c.answer, text) && bytes.Contains(c.answer, plain) {
		return outcome{kind: "ok"}
	}
	var message struct {
		ID     json.RawMessage `json:"id"`
		Result *struct {
			Content []struct {
				Text string `json:"text"`
			} `json:"content"`
			IsError bool `json:"isError"`
		} `json:"result"`
		Error *struct {
			Code    int             `json:"code"`
			Message string          `json:"message"`
			Data    json.RawMessage `json:"data"`
		} `json:"error"`
	}
	if err := json.Unmarshal(c.answer, &message); err != nil {
		return outcome{"http", fmt.Sprintf("%d %.120q", status, c.answer)}
	}
	if _, err := strconv.Atoi(string(message.ID)); err != nil && message.Error != nil {
		return outcome{"http", fmt.Sprintf("%d %.120q", status, c.answer)} // an error that is addressed to nobody
	}
	if !bytes.Equal(message.ID, number) {
		return outcome{"wrong", fmt.Sprintf("asked %d: %d %.200s", id, status, c.answer)}
	}
	switch {
	case message.Error != nil:
		return outcome{"rpc", fmt.Sprintf("%d %d %s %s", status, message.Error.Code, or(message.Error.Data, "{}"),
			strings.ReplaceAll(message.Error.Message, "\n", " "))}
	case message.Result == nil:
		return outcome{"http", fmt.Sprintf("%d %.120q", status, c.answer)}
	case message.Result.IsError:
		return outcome{"tool_error", fmt.Sprintf("%.200s", c.answer)}
	case len(message.Result.Content) > 0 && message.Result.Content[0].Text == string(text[1:len(text)-1]):
		return outcome{kind: "ok"}
	}
	return outcome{"wrong", fmt.Sprintf("asked %d: %.200s", id, c.answer)}
}

func or(value json.RawMessage, fallback string) string {
	if len(value) == 0 {
		return fallback
	}
	return string(value)
}

// exchange sends c.body and reads the whole response; the JSON-RPC answer is in c.answer afterwards.
func (c *caller) exchange(verb, method, name string) (status int, session string, err error) {
	defer func() {
		if err != nil {
			c.close()
		}
	}()
	fresh := c.conn == nil
	if fresh {
		if c.conn, err = net.DialTimeout("tcp", c.o.address, 10*time.Second); err != nil {
			c.conn = nil
			return 0, "", err
		}
		c.reader = bufio.NewReaderSize(c.conn, 1<<16)
	}
	r := append(c.request[:0], verb...)
	r = append(append(r, ' '), c.o.path...)
	r = append(append(r, " HTTP/1.1\r\nHost: "...), c.o.host...)
	r = append(r, "\r\nAccept: application/json, text/event-stream\r\nContent-Type: application/json\r\nContent-Length: "...)
	r = strconv.AppendInt(r, int64(len(c.body)), 10)
	switch {
	case c.o.modern:
		r = append(append(r, "\r\nMCP-Protocol-Version: 2026-07-28\r\nMcp-Method: "...), method...)
		if name != "" {
			r = append(append(r, "\r\nMcp-Name: "...), name...)
		}
	case c.session != "":
		r = append(append(r, "\r\nMCP-Protocol-Version: 2025-06-18\r\nMcp-Session-Id: "...), c.session...)
	}
	r = append(append(r, "\r\n\r\n"...), c.body...)
	c.request = r
	c.conn.SetDeadline(time.Now().Add(c.o.timeout))
	if _, err = c.conn.Write(r); err != nil {
		return 0, "", err
	}
	return c.response()
}

func (c *caller) response() (status int, session string, err error) {
	line, err := c.line()
	if err != nil {
		return 0, "", err
	}
	if len(line) < 12 || !bytes.HasPrefix(line, []byte("HTTP/1.1 ")) {
		return 0, "", fmt.Errorf("bad status line %.60q", line)
	}
	if status, err = strconv.Atoi(string(line[9:12])); err != nil {
		return 0, "", err
	}
	length, chunked, stream, closing := 0, false, false, false
	for {
		if line, err = c.line(); err != nil {
			return 0, "", err
		}
		if len(line) == 0 {
			break
		}
		colon := bytes.IndexByte(line, ':')
		if colon < 0 {
			return 0, "", fmt.Errorf("bad header %.60q", line)
		}
		value := bytes.TrimSpace(line[colon+1:])
		switch colon {
		case len("connection"):
			if equal(line[:colon], "connection") && equal(value, "close") {
				closing = true
			}
		case len("content-type"):
			if equal(line[:colon], "content-type") {
				stream = bytes.HasPrefix(value, []byte("text/event-stream"))
			}
		case len("content-length"):
			if equal(line[:colon], "content-length") {
				if length, err = strconv.Atoi(string(value)); err != nil {
					return 0, "", err
				}
			} else if equal(line[:colon], "mcp-session-id") {
				session = string(value)
			}
		case len("transfer-encoding"):
			if equal(line[:colon], "transfer-encoding") {
				chunked = equal(value, "chunked")
			}
		}
	}
	c.answer = c.answer[:0]
	if !chunked {
		if err = c.take(length); err != nil {
			return 0, "", err
		}
	}
	for chunked {
		if line, err = c.line(); err != nil {
			return 0, "", err
		}
		size, problem := strconv.ParseInt(string(line), 16, 32)
		if problem != nil {
			return 0, "", problem
		}
		if err = c.take(int(size)); err != nil {
			return 0, "", err
		}
		if line, err = c.line(); err != nil || len(line) > 0 {
			return 0, "", fmt.Errorf("bad end of a chunk %.60q %w", line, err)
		}
		chunked = size > 0
	}
	if stream {
		c.answer = lastEvent(c.answer)
	}
	if closing {
		c.close()
	}
	return status, session, nil
}

func (c *caller) line() ([]byte, error) {
	line, err := c.reader.ReadSlice('\n')
	if err != nil {
		return nil, err
	}
	return bytes.TrimRight(line, "\r\n"), nil
}

func (c *caller) take(size int) error {
	start := len(c.answer)
	if cap(c.answer)-start < size {
		c.answer = append(c.answer, make([]byte, size)...)
	}
	c.answer = c.answer[:start+size]
	_, err := io.ReadFull(c.reader, c.answer[start:])
	return err
}

// close tells what arrived that nobody had asked for: bytes after the last answer.
func (c *caller) close() (unasked string) {
	if c.conn == nil {
		return ""
	}
	if waiting := c.reader.Buffered(); waiting > 0 {
		rest, _ := c.reader.Peek(waiting)
		unasked = fmt.Sprintf("%.120q", rest)
	}
	c.conn.Close()
	c.conn = nil
	return unasked
}

// lastEvent gives the data of the last event that is a response: interim messages have a method.
func lastEvent(stream []byte) []byte {
	var answer []byte
	for line := range bytes.Lines(stream) {
		if data, ok := bytes.CutPrefix(line, []byte("data:")); ok {
			if data = bytes.TrimSpace(data); len(data) > 0 && !bytes.Contains(data, []byte(`"method":`)) {
				answer = data
			}
		}
	}
	return answer
}

// open begins a legacy session and gives its id. A server that is down for a moment answers with an error: a client tries again, and so does this.
func open(o *options) (session string, err error) {
	for range 100 {
		if session, err = tryOpen(o); err == nil {
			return session, nil
		}
		time.Sleep(100 * time.Millisecond)
	}
	return "", err
}

func tryOpen(o *options) (string, error) {
	c := &caller{o: o}
	defer c.close()
	c.body = []byte(`{"jsonrpc":"2.0","id":0,"method":"initialize","params":{"protocolVersion":"2025-06-18","capabilities":{},` +
		`"clientInfo":{"name":"load","version":"1"}}}`)
	status, session, err := c.exchange("POST", "initialize", "")
	if err != nil || status != 200 || bytes.Contains(c.answer, []byte(`"error":`)) {
		return "", fmt.Errorf("%d %.200s %w", status, c.answer, err)
	}
	c.session = session
	c.body = []byte(`{"jsonrpc":"2.0","method":"notifications/initialized"}`)
	if status, _, err = c.exchange("POST", "notifications/initialized", ""); err != nil || status >= 300 {
		return "", fmt.Errorf("%d %.200s %w", status, c.answer, err)
	}
	return session, nil
}

func end(o *options, session string) {
	c := &caller{o: o, session: session}
	c.exchange("DELETE", "", "")
	c.close()
}

func equal(value []byte, want string) bool { return strings.EqualFold(string(value), want) }
