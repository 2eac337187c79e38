// Package calls makes calls on request, so that a test outside the mesh can see what a service inside it sees;
// it never keeps a result.
package calls

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	"proa.dev/examples/go-services/internal/echo"
	"proa.dev/examples/go-services/internal/outbound"
	"proa.dev/examples/go-services/internal/trace"
)

// Bounds on what one request to /call or /grpc may ask for.
const (
	maxCalls       = 100_000
	maxBodyBytes   = 64 << 20
	defaultTimeout = 30 * time.Second
)

// HTTPResult is the JSON answer of /call: the last answer, and counts over all calls.
type HTTPResult struct {
	Workload   string              `json:"workload"`
	URL        string              `json:"url"`
	Status     int                 `json:"status"`
	Proto      string              `json:"proto"`
	Headers    map[string][]string `json:"headers"`
	Body       any                 `json:"body"`
	Error      string              `json:"error,omitempty"`
	DurationMS float64             `json:"duration_ms"`
	Calls      int                 `json:"calls"`
	ByWorkload map[string]int      `json:"by_workload"`
	ByStatus   map[string]int      `json:"by_status"`
	ByError    map[string]int      `json:"by_error"`
}

// plan is what the query of /call or /grpc asks for.
type plan struct {
	count   int
	timeout time.Duration
	headers [][2]string
}

func readPlan(query url.Values) (plan, error) {
	p := plan{count: 1, timeout: defaultTimeout}
	if text := query.Get("n"); text != "" {
		count, err := strconv.Atoi(text)
		if err != nil || count < 1 || count > maxCalls {
			return p, fmt.Errorf("n: must be 1..%d, got %q", maxCalls, text)
		}
		p.count = count
	}
	if text := query.Get("timeout"); text != "" {
		timeout, err := time.ParseDuration(text)
		if err != nil || timeout <= 0 {
			return p, fmt.Errorf("timeout: must be a duration such as 2s, got %q", text)
		}
		p.timeout = timeout
	}
	for _, text := range query["h"] {
		name, value, found := strings.Cut(text, ":")
		if !found || name == "" {
			return p, fmt.Errorf("h: must be NAME:VALUE, got %q", text)
		}
		p.headers = append(p.headers, [2]string{strings.ToLower(name), strings.TrimSpace(value)})
	}
	return p, nil
}

// HTTP serves /call?url=URL[&n=1][&method=GET][&h=NAME:VALUE…][&body_bytes=0][&timeout=30s][&proto=h2][&fresh=true].
func HTTP(self echo.Self, sidecar outbound.Sidecar) http.Handler {
	clients := map[string]*http.Client{
		"":   {Transport: outbound.Transport(sidecar, outbound.HTTP1, outbound.Reused)},
		"h2": {Transport: outbound.Transport(sidecar, outbound.H2C, outbound.Reused)},
	}
	fresh := &http.Client{Transport: outbound.Transport(sidecar, outbound.HTTP1, outbound.Fresh)}
	for _, client := range []*http.Client{clients[""], clients["h2"], fresh} {
		client.CheckRedirect = func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }
	}
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		query := r.URL.Query()
		p, err := readPlan(query)
		client, known := clients[query.Get("proto")]
		size, sizeErr := strconv.Atoi(orZero(query.Get("body_bytes")))
		switch {
		case err != nil:
		case query.Get("url") == "":
			err = fmt.Errorf("url: is required, such as http://orders/echo")
		case !known:
			err = fmt.Errorf("proto: must be h2 or absent, got %q", query.Get("proto"))
		case sizeErr != nil || size < 0 || size > maxBodyBytes:
			err = fmt.Errorf("body_bytes: must be 0..%d, got %q", maxBodyBytes, query.Get("body_bytes"))
		}
		if err != nil {
			http.Error(w, err.Error(), http.StatusBadRequest)
			return
		}
		if query.Get("fresh") == "true" {
			client = fresh
		}
		result := HTTPResult{
			Workload: self.Workload, URL: query.Get("url"),
			ByWorkload: map[string]int{}, ByStatus: map[string]int{}, ByError: map[string]int{},
		}
		for range p.count {
			result.one(r, client, p, query.Get("method"), make([]byte, size))
		}
		echo.WriteJSON(w, result)
	})
}

func orZero(text string) string {
	if text == "" {
		return "0"
	}
	return text
}

// one makes one call and keeps its answer as the last.
func (result *HTTPResult) one(r *http.Request, client *http.Client, p plan, method string, body []byte) {
	result.Calls++
	result.Status, result.Body, result.Error, result.Headers = 0, nil, "", nil
	ctx, cancel := context.WithTimeout(r.Context(), p.timeout)
	defer cancel()
	start := time.Now()
	defer func() {
		result.DurationMS = float64(time.Since(start).Microseconds()) / 1000
		if result.Error != "" {
			result.ByError[result.Error]++
		}
	}()
	request, err := http.NewRequestWithContext(ctx, method, result.URL, bytes.NewReader(body))
	if err != nil {
		result.Error = err.Error()
		return
	}
	for _, pair := range p.headers {
		if pair[0] == "host" {
			request.Host = pair[1]
			continue
		}
		request.Header.Add(pair[0], pair[1])
	}
	trace.FromHTTP(r.Header).ToHTTP(request.Header)
	response, err := client.Do(request)
	if err != nil {
		result.Error = err.Error()
		return
	}
	defer response.Body.Close()
	answer, err := io.ReadAll(io.LimitReader(response.Body, maxBodyBytes))
	if err != nil {
		result.Error = "reading the answer: " + err.Error()
	}
	result.Status, result.Proto = response.StatusCode, response.Proto
	result.Headers = map[string][]string{}
	for name, lines := range response.Header {
		result.Headers[strings.ToLower(name)] = lines
	}
	result.Body = string(answer)
	if json.Valid(answer) {
		result.Body = json.RawMessage(answer)
	}
	result.ByStatus[strconv.Itoa(response.StatusCode)]++
	if workload := response.Header.Get("x-shop-workload"); workload != "" {
		result.ByWorkload[workload]++
	}
}
