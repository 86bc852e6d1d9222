// Load calls one tool of an MCP server over HTTP from many connections, checks that every answer is the one its caller
// asked for, and prints what it measured as one JSON object. It writes its own HTTP so that it costs little beside what
// it measures. Its loops are bounded by --duration and --calls; it sends to this machine only.
//
//	load --url http://127.0.0.1:8080/mcp --era modern --connections 16 --duration 6s
package main

import (
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"net"
	"net/url"
	"os"
	"os/signal"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"
)

type options struct {
	address     string
	path        string
	host        string
	modern      bool
	tools       []string
	connections int
	sessions    int
	calls       int64
	text        string
	prefix      string
	ms          int
	timeout     time.Duration
	pause       time.Duration
	begun       time.Time
}

// A report holds latencies in milliseconds; Errors counts by kind, FirstErrors shows one of each.
type report struct {
	Calls       int64             `json:"calls"`
	OK          int64             `json:"ok"`
	Errors      map[string]int64  `json:"errors"`
	FirstErrors map[string]string `json:"first_errors"`
	Seconds     float64           `json:"seconds"`
	Rate        float64           `json:"rate"`
	P50         float64           `json:"p50_ms"`
	P90         float64           `json:"p90_ms"`
	P99         float64           `json:"p99_ms"`
	Max         float64           `json:"max_ms"`
}

func main() {
	var o options
	target := flag.String("url", "", "MCP endpoint on this machine")
	era := flag.String("era", "modern", "modern or legacy")
	tools := flag.String("tools", "echo", "names of tools, called in turn")
	flag.IntVar(&o.connections, "connections", 16, "connections, one call at a time on each")
	flag.IntVar(&o.sessions, "sessions", 1, "legacy sessions, shared out among the connections")
	flag.Int64Var(&o.calls, "calls", 0, "stop after so many calls; 0: by --duration alone")
	duration := flag.Duration("duration", 5*time.Second, "stop after this time, 10m at most")
	size := flag.Int("size", 64, "bytes of text in a call")
	flag.StringVar(&o.prefix, "keys", "", "give every call the key PREFIX-MS-N, for the server's record; MS is the time since the start")
	flag.IntVar(&o.ms, "ms", 0, "the argument ms of every call")
	flag.DurationVar(&o.timeout, "timeout", 60*time.Second, "a caller waits no longer than this for its answer")
	flag.DurationVar(&o.pause, "pause", 0, "how long a caller rests between its calls")
	record := flag.String("record", "", "write one line for every call to this file: tool, key, outcome, details")
	flag.Parse()

	endpoint, err := url.Parse(*target)
	if err == nil && !isLocal(endpoint.Hostname()) {
		err = fmt.Errorf("%s is not on this machine", endpoint.Hostname())
	}
	if err != nil || *duration > 10*time.Minute {
		fmt.Fprintln(os.Stderr, "load:", err, "(see --help)")
		os.Exit(2)
	}
	o.address, o.host, o.path = endpoint.Host, endpoint.Host, endpoint.RequestURI()
	o.modern, o.tools, o.text = *era == "modern", strings.Split(*tools, ","), strings.Repeat("x", *size)

	result, records, err := run(&o, *duration)
	if err != nil {
		fmt.Fprintln(os.Stderr, "load:", err)
		os.Exit(1)
	}
	if *record != "" {
		if err := os.WriteFile(*record, records, 0o600); err != nil {
			fmt.Fprintln(os.Stderr, "load:", err)
			os.Exit(1)
		}
	}
	json.NewEncoder(os.Stdout).Encode(result)
}

func isLocal(host string) bool {
	ip := net.ParseIP(host)
	return host == "localhost" || ip != nil && ip.IsLoopback()
}

// A worker is one connection and what it saw.
type worker struct {
	caller    *caller
	latencies []float64
	records   []byte
	errors    map[string]int64
	first     map[string]string
	calls     int64
	ok        int64
}

func run(o *options, duration time.Duration) (*report, []byte, error) {
	sessions := []string{""}
	if !o.modern {
		sessions = nil
		for range o.sessions {
			session, err := open(o)
			if err != nil {
				return nil, nil, fmt.Errorf("no session: %w", err)
			}
			sessions = append(sessions, session)
		}
	}
	// interrupted, it ends the calls under way and reports
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	ctx, cancel := context.WithTimeout(ctx, duration)
	defer cancel()
	var ids atomic.Int64
	var group sync.WaitGroup
	workers := make([]*worker, o.connections)
	o.begun = time.Now()
	for i := range workers {
		w := &worker{
			caller: &caller{o: o, session: sessions[i%len(sessions)]},
			errors: map[string]int64{},
			first:  map[string]string{},
		}
		workers[i] = w
		group.Go(func() { w.work(ctx, o, &ids) })
	}
	group.Wait()
	seconds := time.Since(o.begun).Seconds()

	result := &report{Errors: map[string]int64{}, FirstErrors: map[string]string{}, Seconds: seconds}
	var latencies []float64
	var records []byte
	for _, w := range workers {
		latencies = append(latencies, w.latencies...)
		records = append(records, w.records...)
		result.Calls += w.calls
		result.OK += w.ok
		for kind, count := range w.errors {
			result.Errors[kind] += count
			result.FirstErrors[kind] = w.first[kind]
		}
	}
	result.Rate = float64(result.Calls) / seconds
	slices.Sort(latencies)
	if n := len(latencies); n > 0 {
		at := func(share float64) float64 { return latencies[min(n-1, int(share*float64(n)))] }
		result.P50, result.P90, result.P99, result.Max = at(0.5), at(0.9), at(0.99), latencies[n-1]
	}
	for _, session := range sessions {
		if session != "" {
			end(o, session)
		}
	}
	return result, records, nil
}

func (w *worker) work(ctx context.Context, o *options, ids *atomic.Int64) {
	for ctx.Err() == nil {
		id := ids.Add(1)
		if o.calls > 0 && id > o.calls {
			break
		}
		tool := o.tools[int(id)%len(o.tools)]
		key := ""
		if o.prefix != "" {
			key = fmt.Sprintf("%s-%d-%d", o.prefix, time.Since(o.begun).Milliseconds(), id)
		}
		begun := time.Now()
		outcome := w.caller.call(id, tool, key)
		w.latencies = append(w.latencies, float64(time.Since(begun).Nanoseconds())/1e6)
		w.calls++
		if outcome.kind == "ok" {
			w.ok++
		} else {
			w.errors[outcome.kind]++
			if _, seen := w.first[outcome.kind]; !seen {
				w.first[outcome.kind] = outcome.detail
			}
		}
		if key != "" {
			w.records = fmt.Appendf(w.records, "%s %s %s %s\n", tool, key, outcome.kind, outcome.detail)
		}
		if !o.modern && strings.HasPrefix(outcome.detail, "404 ") {
			// the session is gone, and a client begins a new one
			if session, err := tryOpen(o); err == nil {
				w.caller.session = session
			}
		}
		time.Sleep(o.pause)
	}
	if extra := w.caller.close(); extra != "" {
		w.errors["unasked"]++
		w.first["unasked"] = extra
	}
}
