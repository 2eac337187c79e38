// Package server is the smallest grpc-go server that does a control plane's fan-out: one delta ADS stream per
// proxy, each change encoded once, its bytes shared by all streams, every ACK read. It has no world, no
// subscriptions and no checks: it is the floor that grpc-go sets, never a control plane.
package server

import (
	"fmt"
	"io"
	"sync"
	"sync/atomic"

	"google.golang.org/grpc"
	"google.golang.org/grpc/mem"

	"proa.dev/benchmarks/baseline/internal/wire"
)

// Server fans one resource out to every stream.
type Server struct {
	Resource  string // name of the ClusterLoadAssignment
	Endpoints int
	BasePort  uint32 // change K is the endpoint port BasePort + K

	mu      sync.Mutex
	streams map[*stream]struct{}
	changes uint32

	// lost are pushes whose stream ended before it had acknowledged them.
	pushes, acks, nacks, lost atomic.Int64
	acked                     sync.Cond
	ackMu                     sync.Mutex
}

// stream is one proxy's stream.
type stream struct {
	queue    chan []byte
	sent     int64 // guarded by Server.mu
	answered int64 // by the reading goroutine only
}

// queued is how many responses may wait for one stream's writer before a change waits for it.
const queued = 16

// New returns a server of one resource.
func New(resource string, endpoints int, basePort uint32) *Server {
	s := &Server{Resource: resource, Endpoints: endpoints, BasePort: basePort, streams: map[*stream]struct{}{}}
	s.acked.L = &s.ackMu
	return s
}

// Counts are what the server has done so far.
type Counts struct {
	Streams int    `json:"streams"`
	Changes uint32 `json:"changes"`
	Pushes  int64  `json:"pushes"`
	Acks    int64  `json:"acks"`
	Nacks   int64  `json:"nacks"`
}

// Counts returns the counts.
func (s *Server) Counts() Counts {
	s.mu.Lock()
	defer s.mu.Unlock()
	return Counts{
		Streams: len(s.streams), Changes: s.changes,
		Pushes: s.pushes.Load(), Acks: s.acks.Load(), Nacks: s.nacks.Load(),
	}
}

// response returns the encoded response of the current change; s.mu is held.
func (s *Server) response() []byte {
	ports := make([]uint32, s.Endpoints)
	for i := range ports {
		ports[i] = 1 + uint32(i)
	}
	ports[0] = s.BasePort + s.changes
	version := fmt.Sprintf("%016x", s.changes)
	body := wire.LoadAssignment(s.Resource, "10.0.0.1", ports)
	return wire.AppendResponse(nil, wire.Types["eds"], version, wire.Resource{Name: s.Resource, Version: version, Body: body})
}

// Change makes one change, hands it to every stream and returns how many there are.
func (s *Server) Change() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.changes++
	encoded := s.response()
	for stream := range s.streams {
		s.send(stream, encoded)
	}
	return len(s.streams)
}

// send queues a response; s.mu is held.
func (s *Server) send(to *stream, encoded []byte) {
	to.queue <- encoded
	to.sent++
	s.pushes.Add(1)
}

// AwaitAcks returns once as many pushes in total are acknowledged, or lost with their stream.
func (s *Server) AwaitAcks(total int64) {
	s.ackMu.Lock()
	defer s.ackMu.Unlock()
	for s.acks.Load()+s.nacks.Load()+s.lost.Load() < total {
		s.acked.Wait()
	}
}

// Register adds the delta stream to a gRPC server that uses Codec.
func (s *Server) Register(registrar *grpc.Server) {
	registrar.RegisterService(&grpc.ServiceDesc{
		ServiceName: "envoy.service.discovery.v3.AggregatedDiscoveryService",
		HandlerType: (*any)(nil),
		Streams: []grpc.StreamDesc{{
			StreamName: "DeltaAggregatedResources", ServerStreams: true, ClientStreams: true,
			Handler: func(_ any, rpc grpc.ServerStream) error { return s.serve(rpc) },
		}},
	}, s)
}

// serve writes from its own goroutine and reads ACKs in this one.
func (s *Server) serve(rpc grpc.ServerStream) error {
	var first []byte
	if err := rpc.RecvMsg(&first); err != nil {
		return err
	}
	proxy := &stream{queue: make(chan []byte, queued)}
	s.mu.Lock()
	s.streams[proxy] = struct{}{}
	s.send(proxy, s.response())
	s.mu.Unlock()

	gone := make(chan struct{})
	defer func() {
		s.mu.Lock()
		delete(s.streams, proxy)
		lost := proxy.sent - proxy.answered
		s.mu.Unlock()
		close(gone)
		s.note(&s.lost, lost)
	}()
	go func() {
		failed := false
		for {
			select {
			case encoded := <-proxy.queue: // keeps receiving after a failure, so that Change never waits for the dead
				failed = failed || rpc.SendMsg(&encoded) != nil
			case <-gone:
				return
			}
		}
	}()
	for {
		var message []byte
		if err := rpc.RecvMsg(&message); err == io.EOF {
			return nil
		} else if err != nil {
			return err
		}
		request, err := wire.ReadRequest(message)
		switch {
		case err != nil:
			proxy.answered++
			s.note(&s.nacks, 1)
		case request.Nonce != "": // else a subscription
			proxy.answered++
			s.note(&s.acks, 1)
		}
	}
}

// note adds to a counter that AwaitAcks reads.
func (s *Server) note(counter *atomic.Int64, n int64) {
	s.ackMu.Lock()
	defer s.ackMu.Unlock()
	counter.Add(n)
	s.acked.Broadcast()
}

// Codec passes bytes through as they are.
type Codec struct{}

// Marshal returns the bytes without a copy.
func (Codec) Marshal(v any) (mem.BufferSlice, error) {
	return mem.BufferSlice{mem.SliceBuffer(*v.(*[]byte))}, nil
}

// Unmarshal keeps a copy of the bytes.
func (Codec) Unmarshal(b mem.BufferSlice, v any) error {
	*v.(*[]byte) = b.Materialize()
	return nil
}

// Name is the codec's content subtype.
func (Codec) Name() string { return "proto" }
