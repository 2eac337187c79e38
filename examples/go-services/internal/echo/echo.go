// Package echo answers with who served a request and what arrived, and does what the request's steering
// headers ask; it never calls another service.
package echo

import (
	"cmp"
	"encoding/json"
	"io"
	"net"
	"net/http"
	"strconv"
	"strings"
	"time"

	"proa.dev/examples/go-services/internal/serve"
	"proa.dev/examples/go-services/internal/steer"
)

// Self is who the process says it is, in answers and in the x-shop-workload and x-shop-version headers.
type Self struct {
	Workload string
	Version  string
}

// Reply is the JSON answer of /echo.
type Reply struct {
	Workload   string              `json:"workload"`
	Version    string              `json:"version"`
	Method     string              `json:"method"`
	Path       string              `json:"path"`
	Query      string              `json:"query"`
	Host       string              `json:"host"`
	Headers    map[string][]string `json:"headers"`
	Remote     string              `json:"remote"`
	Connection uint64              `json:"connection"`
	Attempt    int                 `json:"attempt"`
	Proto      string              `json:"proto"`
	BodyBytes  int64               `json:"body_bytes"`
}

// Attempt returns x-envoy-attempt-count, 0 when the request carries none.
func Attempt(header http.Header) int {
	attempt, _ := strconv.Atoi(header.Get("x-envoy-attempt-count"))
	return attempt
}

// Handler answers every request under /echo.
func Handler(self Self) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		size, err := io.Copy(io.Discard, r.Body)
		if err != nil {
			http.Error(w, "reading the body: "+err.Error(), http.StatusBadRequest)
			return
		}
		headers := make(map[string][]string, len(r.Header))
		for name, lines := range r.Header {
			headers[strings.ToLower(name)] = lines
		}
		WriteJSON(w, Reply{
			Workload: self.Workload, Version: self.Version,
			Method: r.Method, Path: r.URL.Path, Query: r.URL.RawQuery, Host: r.Host, Headers: headers,
			Remote: r.RemoteAddr, Connection: serve.Connection(r.Context()),
			Attempt: Attempt(r.Header), Proto: r.Proto, BodyBytes: size,
		})
	})
}

// WriteJSON writes a value as an indented JSON answer.
func WriteJSON(w http.ResponseWriter, value any) {
	w.Header().Set("content-type", "application/json")
	encoder := json.NewEncoder(w)
	encoder.SetIndent("", "  ")
	_ = encoder.Encode(value)
}

// Steered names the workload on every answer of next and obeys the steering headers before next runs.
func Steered(self Self, next http.Handler) http.Handler {
	attempts := &steer.Attempts{}
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("x-shop-workload", self.Workload)
		w.Header().Set("x-shop-version", self.Version)
		order, err := steer.Read(r.Header.Get)
		if err != nil {
			http.Error(w, err.Error(), http.StatusBadRequest)
			return
		}
		if order.Delay > 0 {
			select {
			case <-time.After(order.Delay):
			case <-r.Context().Done():
				return
			}
		}
		switch {
		case order.Reset:
			reset(w)
		case order.FailFirst > 0:
			if attempts.Next(order.RequestID) > order.FailFirst {
				next.ServeHTTP(w, r)
				return
			}
			fail(w, cmp.Or(order.Status, http.StatusServiceUnavailable))
		case order.Status != 0 && order.Status != http.StatusOK:
			fail(w, order.Status)
		default:
			next.ServeHTTP(w, r)
		}
	})
}

func fail(w http.ResponseWriter, status int) {
	if status == http.StatusNoContent || status == http.StatusNotModified {
		w.WriteHeader(status)
		return
	}
	w.Header().Set("content-type", "application/json")
	w.WriteHeader(status)
	_, _ = w.Write([]byte(`{"error": "asked for by x-shop headers"}` + "\n"))
}

// reset closes the connection under the request: a TCP RST on HTTP/1, a stream reset on HTTP/2.
func reset(w http.ResponseWriter) {
	hijacker, ok := w.(http.Hijacker)
	if !ok {
		panic(http.ErrAbortHandler)
	}
	conn, _, err := hijacker.Hijack()
	if err != nil {
		panic(http.ErrAbortHandler)
	}
	if tcp, ok := conn.(*net.TCPConn); ok {
		_ = tcp.SetLinger(0)
	}
	_ = conn.Close()
}
