// Package load sends requests at a fixed rate, whether or not the answers keep up (an open loop), and counts
// every one of them; it never retries and never forgets a request that it has sent.
package load

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"sync"
	"syscall"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	"proa.dev/examples/go-services/internal/echo"
	"proa.dev/examples/go-services/internal/outbound"
	"proa.dev/examples/go-services/shoppb"
)

// Run is one load run.
type Run struct {
	URL         *url.URL // http://NAME[:PORT]/PATH, or grpc://NAME:PORT for Echo calls
	Method      string
	Header      http.Header // Host is taken from here when present
	Sidecar     outbound.Sidecar
	RPS         float64
	Duration    time.Duration // 0: until ctx ends
	Timeout     time.Duration // of one request
	InFlight    int           // requests beyond it are skipped and counted as such
	Version     outbound.Version
	Connections outbound.Connections
	Seconds     bool // one report a second before the final one
}

// Do runs until the duration is over or ctx ends, waits for what is in flight, and writes JSON lines to out.
func (r Run) Do(ctx context.Context, out io.Writer) (Report, error) {
	send, closeAll, err := r.sender()
	if err != nil {
		return Report{}, err
	}
	defer closeAll()
	counts := newCounter()
	encoder := json.NewEncoder(out)
	start := time.Now()

	ticking, stopTicking := context.WithCancel(context.Background())
	var ticker sync.WaitGroup
	ticker.Go(func() {
		if r.Seconds {
			everySecond(ticking, counts, encoder)
		}
	})
	r.fire(ctx, start, counts, send)
	stopTicking()
	ticker.Wait()
	final := counts.final(time.Now(), time.Since(start))
	return final, encoder.Encode(final)
}

// fire starts request i at start + i/RPS and returns when all have ended.
func (r Run) fire(ctx context.Context, start time.Time, counts *counter, send func(context.Context) outcome) {
	slots := make(chan struct{}, r.InFlight)
	var requests sync.WaitGroup
	defer requests.Wait()
	timer := time.NewTimer(0)
	defer timer.Stop()
	for i := 0; ; i++ {
		due := time.Duration(float64(i) / r.RPS * float64(time.Second))
		if r.Duration > 0 && due >= r.Duration {
			return
		}
		timer.Reset(time.Until(start.Add(due)))
		select {
		case <-ctx.Done():
			return
		case <-timer.C:
		}
		select {
		case slots <- struct{}{}:
		default:
			counts.skipped()
			continue
		}
		counts.sent()
		requests.Go(func() {
			// Not ctx: what has been sent is waited for, so that the end of a run loses nothing.
			limited, cancel := context.WithTimeout(context.Background(), r.Timeout)
			defer cancel()
			began := time.Now()
			ended := send(limited)
			ended.took = time.Since(began)
			counts.ended(ended, time.Now())
			<-slots
		})
	}
}

func everySecond(ctx context.Context, counts *counter, encoder *json.Encoder) {
	ticker := time.NewTicker(time.Second)
	defer ticker.Stop()
	last := time.Now()
	for {
		select {
		case now := <-ticker.C:
			_ = encoder.Encode(counts.takeSecond(now, now.Sub(last)))
			last = now
		case <-ctx.Done():
			now := time.Now()
			_ = encoder.Encode(counts.takeSecond(now, now.Sub(last)))
			return
		}
	}
}

// sender returns the function that makes one request, and one that closes its connections.
func (r Run) sender() (func(context.Context) outcome, func(), error) {
	switch r.URL.Scheme {
	case "http":
		transport := outbound.Transport(r.Sidecar, r.Version, r.Connections)
		client := &http.Client{
			Transport:     transport,
			CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
		}
		return func(ctx context.Context) outcome { return r.overHTTP(ctx, client) }, transport.CloseIdleConnections, nil
	case "grpc":
		if r.Connections == outbound.Fresh {
			return r.overFreshGRPC, func() {}, nil
		}
		conn, err := outbound.Dial(r.Sidecar, r.URL.Host)
		if err != nil {
			return nil, nil, err
		}
		return func(ctx context.Context) outcome { return r.overGRPC(ctx, conn) }, func() { _ = conn.Close() }, nil
	default:
		return nil, nil, fmt.Errorf("--url %s: must be http://… or grpc://NAME:PORT", r.URL)
	}
}

// detailBytes bounds how much of a failed answer is kept.
const detailBytes = 300

func (r Run) overHTTP(ctx context.Context, client *http.Client) outcome {
	request, err := http.NewRequestWithContext(ctx, r.Method, r.URL.String(), nil)
	if err != nil {
		return outcome{reason: "bad request", detail: err.Error()}
	}
	request.Header = r.Header.Clone()
	request.Host = r.Header.Get("Host")
	response, err := client.Do(request)
	if err != nil {
		return outcome{reason: classify(err), detail: err.Error()}
	}
	defer response.Body.Close()
	ended := outcome{
		status:   fmt.Sprint(response.StatusCode),
		workload: response.Header.Get("x-shop-workload"),
		orders:   response.Header.Get("x-shop-orders"),
	}
	head, err := io.ReadAll(io.LimitReader(response.Body, detailBytes))
	if err == nil {
		_, err = io.Copy(io.Discard, response.Body)
	}
	switch {
	case err != nil:
		ended.reason, ended.detail = "body: "+classify(err), err.Error()
	case response.StatusCode < 200 || response.StatusCode > 299:
		ended.reason, ended.detail = "status "+ended.status, string(head)
	}
	return ended
}

func (r Run) overFreshGRPC(ctx context.Context) outcome {
	conn, err := outbound.Dial(r.Sidecar, r.URL.Host)
	if err != nil {
		return outcome{reason: "dial", detail: err.Error()}
	}
	defer conn.Close()
	return r.overGRPC(ctx, conn)
}

func (r Run) overGRPC(ctx context.Context, conn *grpc.ClientConn) outcome {
	for name, lines := range r.Header {
		for _, line := range lines {
			ctx = metadata.AppendToOutgoingContext(ctx, name, line)
		}
	}
	var header metadata.MD
	_, err := shoppb.NewEchoClient(conn).Echo(ctx, &shoppb.EchoRequest{Message: "load"}, grpc.Header(&header))
	ended := outcome{status: status.Code(err).String(), workload: echo.First(header, "x-shop-workload")}
	if err != nil {
		ended.reason, ended.detail = "code "+ended.status, err.Error()
	}
	return ended
}

// classify names the kind of a transport error, so that equal causes are counted together.
func classify(err error) string {
	var timeout interface{ Timeout() bool }
	switch {
	case errors.Is(err, context.DeadlineExceeded), errors.As(err, &timeout) && timeout.Timeout():
		return "timeout"
	case errors.Is(err, syscall.ECONNREFUSED):
		return "connection refused"
	case errors.Is(err, syscall.ECONNRESET), errors.Is(err, syscall.EPIPE):
		return "connection reset"
	case errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF):
		return "connection closed"
	default:
		return "other"
	}
}
