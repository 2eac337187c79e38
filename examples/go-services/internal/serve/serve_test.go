package serve

import (
	"context"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
)

const patience = 10 * time.Second

func listen(t *testing.T) net.Listener {
	t.Helper()
	listener, err := Listen("127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	return listener
}

// A request in flight when the service is told to stop is answered, and a later one is refused.
func TestHTTPStopFinishesWhatIsInFlight(t *testing.T) {
	listener := listen(t)
	ctx, stop := context.WithCancel(context.Background())
	arrived, release := make(chan struct{}), make(chan struct{})
	served := make(chan error, 1)
	go func() {
		served <- HTTP(ctx, listener, http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			close(arrived)
			<-release
			_, _ = io.WriteString(w, "finished")
		}), patience)
	}()
	answer := make(chan string, 1)
	go func() {
		response, err := http.Get("http://" + listener.Addr().String() + "/slow")
		if err != nil {
			answer <- err.Error()
			return
		}
		defer response.Body.Close()
		body, _ := io.ReadAll(response.Body)
		answer <- string(body)
	}()
	<-arrived
	stop()
	for deadline := time.Now().Add(patience); ; time.Sleep(time.Millisecond) {
		conn, err := net.Dial("tcp", listener.Addr().String())
		if err != nil {
			break
		}
		_ = conn.Close()
		if time.Now().After(deadline) {
			t.Fatal("still accepts connections")
		}
	}
	close(release)

	if got := <-answer; got != "finished" {
		t.Errorf("in flight: got %q", got)
	}
	if err := <-served; err != nil {
		t.Errorf("stop: %v", err)
	}
}

// A request that outlasts the drain time is cut off and reported.
func TestHTTPStopReportsWhatItCutsOff(t *testing.T) {
	listener := listen(t)
	ctx, stop := context.WithCancel(context.Background())
	arrived := make(chan struct{})
	served := make(chan error, 1)
	go func() {
		served <- HTTP(ctx, listener, http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
			close(arrived)
			<-r.Context().Done()
		}), 20*time.Millisecond)
	}()
	go func() {
		if response, err := http.Get("http://" + listener.Addr().String()); err == nil {
			_ = response.Body.Close()
		}
	}()
	<-arrived
	stop()

	if err := <-served; err == nil || !strings.Contains(err.Error(), "cut off") {
		t.Errorf("got %v, want an error that says so", err)
	}
}

// Both HTTP versions are served without TLS, and health with them.
func TestHTTPServesBothVersionsAndHealth(t *testing.T) {
	listener := listen(t)
	ctx, stop := context.WithCancel(context.Background())
	served := make(chan error, 1)
	go func() { served <- HTTP(ctx, listener, http.NotFoundHandler(), patience) }()
	for _, want := range []string{"HTTP/1.1", "HTTP/2.0"} {
		transport := &http.Transport{Protocols: new(http.Protocols)}
		transport.Protocols.SetHTTP1(want == "HTTP/1.1")
		transport.Protocols.SetUnencryptedHTTP2(want == "HTTP/2.0")
		response, err := (&http.Client{Transport: transport}).Get("http://" + listener.Addr().String() + "/healthz")
		if err != nil {
			t.Fatal(err)
		}
		_ = response.Body.Close()
		transport.CloseIdleConnections()

		if response.StatusCode != http.StatusOK || response.Proto != want {
			t.Errorf("got %d over %s, want 200 over %s", response.StatusCode, response.Proto, want)
		}
	}
	stop()
	if err := <-served; err != nil {
		t.Errorf("stop: %v", err)
	}
}

// A gRPC service answers the standard health check and stops without an error.
func TestGRPCServesHealthAndStops(t *testing.T) {
	listener := listen(t)
	ctx, stop := context.WithCancel(context.Background())
	served := make(chan error, 1)
	go func() { served <- GRPC(ctx, listener, func(*grpc.Server) {}, patience) }()
	conn, err := grpc.NewClient(listener.Addr().String(), grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	limited, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	reply, err := healthpb.NewHealthClient(conn).Check(limited, &healthpb.HealthCheckRequest{})

	if err != nil || reply.GetStatus() != healthpb.HealthCheckResponse_SERVING {
		t.Errorf("got %v, %v", reply, err)
	}
	stop()
	if err := <-served; err != nil {
		t.Errorf("stop: %v", err)
	}
}

// A wildcard, or an address that is no ADDRESS:PORT, is refused.
func TestListenRefusesWildcards(t *testing.T) {
	for _, address := range []string{":8080", "0.0.0.0:8080", "[::]:8080", "127.0.0.1"} {
		if listener, err := Listen(address); err == nil {
			_ = listener.Close()
			t.Errorf("%s: bound", address)
		}
	}
}

// The error for a taken port names the address.
func TestListenNamesTheTakenAddress(t *testing.T) {
	taken := listen(t)
	defer taken.Close()
	_, err := Listen(taken.Addr().String())

	if err == nil || !strings.Contains(err.Error(), taken.Addr().String()) {
		t.Errorf("got %v, want an error that names %s", err, taken.Addr())
	}
}
