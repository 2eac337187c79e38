// Package serve binds one address and serves it until it is told to stop; it never
// cuts off a request that finishes within the drain time.
package serve

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"sync/atomic"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/health"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
)

// Listen binds exactly the given address: beside a sidecar that does not intercept, which binds the same port
// on its own. Errors name the address and say what to do.
func Listen(address string) (net.Listener, error) {
	host, _, err := net.SplitHostPort(address)
	if err != nil {
		return nil, fmt.Errorf("--listen %s: must be ADDRESS:PORT: %w", address, err)
	}
	ip := net.ParseIP(host)
	if host == "" || (ip != nil && ip.IsUnspecified()) {
		return nil, fmt.Errorf("--listen %s: the wildcard would take the port from the sidecar on every address; name one, such as 127.0.0.1", address)
	}
	return ListenAnywhere(address)
}

// ListenAnywhere binds an address or a wildcard: right where the sidecar intercepts and binds no port of the
// service, as in Kubernetes.
func ListenAnywhere(address string) (net.Listener, error) {
	if _, _, err := net.SplitHostPort(address); err != nil {
		return nil, fmt.Errorf("--listen %s: must be ADDRESS:PORT: %w", address, err)
	}
	listener, err := net.Listen("tcp", address)
	if err != nil {
		return nil, fmt.Errorf("cannot listen on %s: %w", address, err)
	}
	return listener, nil
}

// HTTP serves handler (HTTP/1.1, and HTTP/2 without TLS) and /healthz until ctx ends, then stops accepting and
// waits for what is in flight, at most drain.
func HTTP(ctx context.Context, listener net.Listener, handler http.Handler, drain time.Duration) error {
	var stopping atomic.Bool
	mux := http.NewServeMux()
	mux.Handle("/", handler)
	mux.HandleFunc("/healthz", func(w http.ResponseWriter, _ *http.Request) {
		if stopping.Load() {
			http.Error(w, "stopping", http.StatusServiceUnavailable)
			return
		}
		_, _ = w.Write([]byte("ok\n"))
	})
	var connections atomic.Uint64
	server := &http.Server{
		Handler:           mux,
		Protocols:         new(http.Protocols),
		ReadHeaderTimeout: 10 * time.Second,
		ConnContext: func(ctx context.Context, _ net.Conn) context.Context {
			return context.WithValue(ctx, connectionKey{}, connections.Add(1))
		},
	}
	server.Protocols.SetHTTP1(true)
	server.Protocols.SetUnencryptedHTTP2(true)

	failed := make(chan error, 1)
	go func() { failed <- server.Serve(listener) }()
	slog.Info("listening", "address", listener.Addr().String())
	select {
	case err := <-failed:
		return err
	case <-ctx.Done():
	}
	stopping.Store(true)
	slog.Info("stopping")
	deadline, cancel := context.WithTimeout(context.WithoutCancel(ctx), drain)
	defer cancel()
	if err := server.Shutdown(deadline); errors.Is(err, context.DeadlineExceeded) {
		_ = server.Close()
		return fmt.Errorf("requests still in flight after %s were cut off", drain)
	} else if err != nil {
		return err
	}
	slog.Info("stopped")
	return nil
}

// connectionKey is where a request's context keeps the number of its connection.
type connectionKey struct{}

// Connection returns the number of the accepted connection that a request came on, from 1; 0 if unknown.
func Connection(ctx context.Context) uint64 {
	number, _ := ctx.Value(connectionKey{}).(uint64)
	return number
}

// GRPC serves a gRPC server, with the standard health service, until ctx ends; then as HTTP.
func GRPC(ctx context.Context, listener net.Listener, register func(*grpc.Server), drain time.Duration) error {
	server := grpc.NewServer(grpc.StatsHandler(&connectionCounter{}))
	register(server)
	state := health.NewServer()
	healthpb.RegisterHealthServer(server, state)

	failed := make(chan error, 1)
	go func() { failed <- server.Serve(listener) }()
	slog.Info("listening", "address", listener.Addr().String())
	select {
	case err := <-failed:
		return err
	case <-ctx.Done():
	}
	state.Shutdown()
	slog.Info("stopping")
	drained := make(chan struct{})
	go func() {
		server.GracefulStop()
		close(drained)
	}()
	select {
	case <-drained:
	case <-time.After(drain):
		server.Stop()
		return fmt.Errorf("calls still in flight after %s were cut off", drain)
	}
	slog.Info("stopped")
	return nil
}
