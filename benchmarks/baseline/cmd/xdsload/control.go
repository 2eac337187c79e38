package main

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"strconv"
	"strings"
	"sync"
	"time"

	"proa.dev/benchmarks/baseline/internal/fleet"
)

// control answers commands, one at a time, from HTTP and from standard input.
type control struct {
	fleet    *fleet.Fleet
	settings settings
	quit     chan struct{}
	quitOnce sync.Once

	mu  sync.Mutex // guards out
	out *json.Encoder

	commands sync.Mutex // one command at a time
}

// maxBody bounds the list of changes that staleness takes.
const maxBody = 64 << 20

// listen serves the commands over HTTP and returns the address, "" without --control.
func (c *control) listen() (string, error) {
	if c.settings.control == "" {
		return "", nil
	}
	listener, err := net.Listen("tcp", c.settings.control)
	if err != nil {
		return "", err
	}
	mux := http.NewServeMux()
	mux.HandleFunc("POST /{command}", func(w http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(io.LimitReader(r.Body, maxBody))
		var answer any
		if err == nil {
			answer, err = c.do(r.PathValue("command"), r.URL.Query(), body)
		}
		if err != nil {
			http.Error(w, err.Error(), http.StatusBadRequest)
			return
		}
		_ = json.NewEncoder(w).Encode(answer)
	})
	go func() { _ = http.Serve(listener, mux) }()
	return listener.Addr().String(), nil
}

// wait returns when the commands say quit, or ctx ends.
func (c *control) wait(ctx context.Context) {
	if c.settings.stdin {
		go c.readCommands()
	}
	select {
	case <-ctx.Done():
	case <-c.quit:
	}
}

// readCommands reads lines: COMMAND KEY=VALUE… [JSON].
func (c *control) readCommands() {
	defer c.stop()
	lines := bufio.NewScanner(os.Stdin)
	lines.Buffer(nil, maxBody)
	for lines.Scan() {
		line, body, hasBody := strings.Cut(lines.Text(), "{")
		if hasBody {
			body = "{" + body
		}
		words := strings.Fields(line)
		if len(words) == 0 {
			continue
		}
		query := url.Values{}
		for _, word := range words[1:] {
			key, value, _ := strings.Cut(word, "=")
			query.Add(key, value)
		}
		answer, err := c.do(words[0], query, []byte(body))
		if err != nil {
			answer = map[string]string{"error": err.Error()}
		}
		c.mu.Lock()
		_ = c.out.Encode(answer)
		c.mu.Unlock()
	}
}

func (c *control) stop() { c.quitOnce.Do(func() { close(c.quit) }) }

// do does one command and returns its answer.
func (c *control) do(command string, query url.Values, body []byte) (any, error) {
	c.commands.Lock()
	defer c.commands.Unlock()
	timeout, err := duration(query, "timeout", c.settings.timeout)
	if err != nil {
		return nil, err
	}
	switch command {
	case "snapshot":
		return c.fleet.Snapshot(), nil
	case "reset":
		c.fleet.Reset()
		return c.fleet.Snapshot(), nil
	case "wait":
		return c.await(query, timeout)
	case "staleness":
		return c.staleness(body)
	case "reconnect":
		quiet, err := duration(query, "quiet", c.settings.quiet)
		if err != nil {
			return nil, err
		}
		return c.fleet.Reconnect(timeout, quiet)
	case "quit":
		c.stop()
		return c.fleet.Snapshot(), nil
	default:
		return nil, fmt.Errorf("no command %q: snapshot, reset, wait, staleness, reconnect, quit", command)
	}
}

func duration(query url.Values, key string, fallback time.Duration) (time.Duration, error) {
	if query.Get(key) == "" {
		return fallback, nil
	}
	value, err := time.ParseDuration(query.Get(key))
	if err != nil {
		return 0, fmt.Errorf("%s: must be a duration such as 2s, got %q", key, query.Get(key))
	}
	return value, nil
}

// await waits for sequence=K on every stream, or for a response on as many streams as streams says (all).
func (c *control) await(query url.Values, timeout time.Duration) (any, error) {
	if text := query.Get("sequence"); text != "" {
		sequence, err := strconv.ParseUint(text, 10, 32)
		if err != nil {
			return nil, fmt.Errorf("sequence: must be a count, got %q", text)
		}
		return c.fleet.Wait(timeout, func(s fleet.Snapshot) bool { return s.Sequence[0] >= uint32(sequence) }), nil
	}
	streams := len(c.settings.options.Nodes)
	if text := query.Get("streams"); text != "" {
		var err error
		if streams, err = strconv.Atoi(text); err != nil {
			return nil, fmt.Errorf("streams: must be a count, got %q", text)
		}
	}
	return c.fleet.Wait(timeout, func(s fleet.Snapshot) bool { return s.Reached >= streams }), nil
}

// changeList is the body of staleness: pairs of a change's number and its time in unix seconds. The answer of
// the baseline server's /push is one.
type changeList struct {
	Changes [][2]float64 `json:"changes"`
}

func (c *control) staleness(body []byte) (any, error) {
	var list changeList
	if err := json.Unmarshal(body, &list); err != nil {
		return nil, fmt.Errorf("body: %w", err)
	}
	changes := make([]fleet.Change, len(list.Changes))
	for i, pair := range list.Changes {
		changes[i] = fleet.Change{Sequence: uint32(pair[0]), At: time.UnixMicro(int64(pair[1] * 1e6))}
	}
	return c.fleet.Staleness(changes), nil
}

// round is one push of the mode fanout: the server's answer, and what the fleet saw of it.
type round struct {
	Event  string          `json:"event"`
	Round  int             `json:"round"`
	Server json.RawMessage `json:"server"`
	fleet.Snapshot
}

// rounds triggers each push, waits for it on every stream and writes what happened.
func (c *control) rounds(ctx context.Context) error {
	for i := range c.settings.rounds {
		if ctx.Err() != nil {
			return nil
		}
		c.fleet.Reset()
		server, err := post(c.settings.pushURL, c.settings.timeout)
		if err != nil {
			return err
		}
		seen := c.fleet.Wait(c.settings.timeout, func(s fleet.Snapshot) bool { return s.Reached == s.Streams })
		if err := c.out.Encode(round{Event: "round", Round: i + 1, Server: server, Snapshot: seen}); err != nil {
			return err
		}
		if !seen.Complete {
			return fmt.Errorf("round %d reached %d of %d streams", i+1, seen.Reached, seen.Streams)
		}
	}
	return nil
}

func post(target string, timeout time.Duration) (json.RawMessage, error) {
	client := http.Client{Timeout: timeout}
	response, err := client.Post(target, "application/json", nil)
	if err != nil {
		return nil, err
	}
	defer response.Body.Close()
	answer, err := io.ReadAll(io.LimitReader(response.Body, maxBody))
	if err == nil && response.StatusCode != http.StatusOK {
		err = fmt.Errorf("%s: status %d: %.200s", target, response.StatusCode, answer)
	}
	if err == nil && !json.Valid(answer) {
		answer = []byte("null")
	}
	return answer, err
}
