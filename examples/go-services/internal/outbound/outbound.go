// Package outbound reaches other services by name, through the sidecar where there is one; it never resolves
// or balances by itself when it has a sidecar.
package outbound

import (
	"context"
	"net"
	"net/http"
	"sync"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"
	"google.golang.org/grpc/credentials/insecure"
)

// Sidecar is the address of the sidecar's outbound listener, such as 127.0.11.2:15001. The empty value means
// that names are dialled directly, as in Kubernetes, where the traffic is intercepted.
type Sidecar string

// dialTimeout is far above a loopback connect and far below any caller's patience.
const dialTimeout = 5 * time.Second

// idlePerHost keeps the connections of a steady load alive; Go's default of 2 would open one per request.
const idlePerHost = 256

// Version chooses the HTTP version of a client.
type Version int

// The versions: HTTP/1.1, or HTTP/2 without TLS and with prior knowledge.
const (
	HTTP1 Version = iota
	H2C
)

// Connections says how long a client's connections live.
type Connections int

// Reused keeps connections; Fresh opens a new one for each request.
const (
	Reused Connections = iota
	Fresh
)

// Transport returns an HTTP transport whose requests keep their Host and go to the sidecar. Without a sidecar
// the proxy variables of the environment count, so that HTTP_PROXY=http://podIP:15001 works too.
func Transport(sidecar Sidecar, version Version, connections Connections) *http.Transport {
	dialer := &net.Dialer{Timeout: dialTimeout}
	transport := &http.Transport{
		DialContext:         dialer.DialContext,
		MaxIdleConnsPerHost: idlePerHost,
		DisableCompression:  true,
		DisableKeepAlives:   connections == Fresh,
		Protocols:           new(http.Protocols),
	}
	if sidecar == "" {
		transport.Proxy = http.ProxyFromEnvironment
	} else {
		transport.DialContext = func(ctx context.Context, network, _ string) (net.Conn, error) {
			return dialer.DialContext(ctx, network, string(sidecar))
		}
	}
	transport.Protocols.SetHTTP1(version == HTTP1)
	transport.Protocols.SetUnencryptedHTTP2(version == H2C)
	return transport
}

// Dial returns a gRPC connection to target (name:port). Through a sidecar the target travels as :authority,
// which is what the sidecar routes by.
func Dial(sidecar Sidecar, target string) (*grpc.ClientConn, error) {
	options := []grpc.DialOption{
		grpc.WithTransportCredentials(insecure.NewCredentials()),
		// A sidecar that restarts is back within a second; gRPC's own default waits up to 120 s between attempts.
		grpc.WithConnectParams(grpc.ConnectParams{
			Backoff:           backoff.Config{BaseDelay: 100 * time.Millisecond, Multiplier: 1.6, Jitter: 0.2, MaxDelay: 2 * time.Second},
			MinConnectTimeout: dialTimeout,
		}),
	}
	if sidecar == "" {
		return grpc.NewClient("dns:///"+target, options...)
	}
	options = append(options, grpc.WithAuthority(target))
	return grpc.NewClient("passthrough:///"+string(sidecar), options...)
}

// Pool keeps one gRPC connection per target.
type Pool struct {
	Sidecar Sidecar

	mu    sync.Mutex
	conns map[string]*grpc.ClientConn
}

// Get returns the connection to target, opened at the first call for it.
func (p *Pool) Get(target string) (*grpc.ClientConn, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if conn, ok := p.conns[target]; ok {
		return conn, nil
	}
	conn, err := Dial(p.Sidecar, target)
	if err != nil {
		return nil, err
	}
	if p.conns == nil {
		p.conns = map[string]*grpc.ClientConn{}
	}
	p.conns[target] = conn
	return conn, nil
}

// Close closes every connection.
func (p *Pool) Close() {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, conn := range p.conns {
		_ = conn.Close()
	}
	p.conns = nil
}
