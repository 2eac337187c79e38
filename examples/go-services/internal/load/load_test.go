package load

import (
	"bytes"
	"context"
	"encoding/json"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"sync/atomic"
	"testing"
	"time"

	"proa.dev/examples/go-services/internal/outbound"
)

func run(t *testing.T, server *httptest.Server) Run {
	t.Helper()
	target, err := url.Parse("http://web/buy")
	if err != nil {
		t.Fatal(err)
	}
	return Run{
		URL: target, Method: http.MethodGet, Header: http.Header{},
		Sidecar: outbound.Sidecar(server.Listener.Addr().String()),
		RPS:     200, Duration: 250 * time.Millisecond, Timeout: 5 * time.Second, InFlight: 100,
	}
}

// Every request is sent to the sidecar with the service's name as Host, and counted by who answered.
func TestEveryRequestIsCountedByWhoAnswered(t *testing.T) {
	var arrived atomic.Int64
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		n := arrived.Add(1)
		w.Header().Set("x-shop-workload", r.Host)
		w.Header().Set("x-shop-orders", "orders-v1")
		if n%5 == 0 {
			w.Header().Set("x-shop-orders", "orders-v2")
			w.WriteHeader(http.StatusServiceUnavailable)
		}
	}))
	defer server.Close()
	var out bytes.Buffer
	final, err := run(t, server).Do(context.Background(), &out)
	if err != nil {
		t.Fatal(err)
	}

	if final.Sent != 50 || int64(final.Sent) != arrived.Load() || final.OK != 40 || final.Failed != 10 {
		t.Errorf("got sent %d, ok %d, failed %d; %d arrived", final.Sent, final.OK, final.Failed, arrived.Load())
	}
	if final.ByWorkload["web"] != 50 || final.ByOrders["orders-v2"] != 10 || final.Reasons["status 503"] != 10 {
		t.Errorf("got %v, %v, %v", final.ByWorkload, final.ByOrders, final.Reasons)
	}
	var written Report
	if err := json.Unmarshal(out.Bytes(), &written); err != nil || written.Sent != 50 || written.Type != "final" {
		t.Errorf("wrote %s (%v)", out.String(), err)
	}
}

// A run that is stopped waits for the requests that it has sent.
func TestStopWaitsForWhatIsInFlight(t *testing.T) {
	ctx, stop := context.WithCancel(context.Background())
	release := make(chan struct{})
	var arrived atomic.Int64
	server := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) {
		if arrived.Add(1) == 3 {
			stop()
			close(release)
		}
		<-release
	}))
	defer server.Close()
	load := run(t, server)
	load.Duration = 0
	final, err := load.Do(ctx, &bytes.Buffer{})

	if err != nil || final.Sent < 3 || final.OK != final.Sent || final.InFlight != 0 {
		t.Errorf("got %+v, %v", final, err)
	}
}

// With fresh connections each request comes on a connection of its own.
func TestFreshConnectionsAreOnePerRequest(t *testing.T) {
	var opened atomic.Int64
	server := httptest.NewUnstartedServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) {}))
	server.Config.ConnState = func(_ net.Conn, state http.ConnState) {
		if state == http.StateNew {
			opened.Add(1)
		}
	}
	server.Start()
	defer server.Close()
	load := run(t, server)
	load.Connections = outbound.Fresh
	final, err := load.Do(context.Background(), &bytes.Buffer{})

	if err != nil || int64(final.Sent) != opened.Load() || final.OK != final.Sent {
		t.Errorf("got %d requests on %d connections, %v", final.Sent, opened.Load(), err)
	}
}

// A connection that is refused is a failure with its reason, and no request is lost from the count.
func TestRefusedConnectionsAreFailures(t *testing.T) {
	server := httptest.NewServer(nil)
	load := run(t, server)
	server.Close()
	final, err := load.Do(context.Background(), &bytes.Buffer{})

	if err != nil || final.Failed != final.Sent || final.Reasons["connection refused"] != final.Sent || final.Sent == 0 {
		t.Errorf("got %+v, %v", final, err)
	}
}

// The histogram's quantiles are within 1.6 % of the truth.
func TestHistogramQuantilesAreClose(t *testing.T) {
	h := &histogram{}
	for us := range uint64(100_000) {
		h.add(us + 1)
	}
	for q, wantMS := range map[float64]float64{0.5: 50, 0.99: 99, 0.999: 99.9} {
		if got := h.quantileMS(q); got < wantMS*0.984 || got > wantMS*1.016 {
			t.Errorf("quantile %v: got %v ms, want about %v", q, got, wantMS)
		}
	}
}
