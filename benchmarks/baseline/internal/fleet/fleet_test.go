package fleet

import (
	"net"
	"testing"
	"time"

	"google.golang.org/grpc"

	"proa.dev/benchmarks/baseline/internal/h2stream"
	"proa.dev/benchmarks/baseline/internal/server"
	"proa.dev/benchmarks/baseline/internal/wire"
)

const (
	basePort = 10_000
	patience = 20 * time.Second
)

// serve starts the baseline server with this many endpoints and returns it and its address.
func serve(t *testing.T, endpoints int) (*server.Server, string) {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	fanout := server.New("bench", endpoints, basePort)
	registrar := grpc.NewServer(grpc.ForceServerCodecV2(server.Codec{}))
	fanout.Register(registrar)
	go func() { _ = registrar.Serve(listener) }()
	t.Cleanup(registrar.Stop)
	return fanout, listener.Addr().String()
}

func connect(t *testing.T, address string, streams int) *Fleet {
	t.Helper()
	clients := New(Options{
		Target:        h2stream.Target{Address: address, Authority: address, Path: wire.DeltaMethod},
		Nodes:         make([]Node, streams),
		Subscriptions: []Subscription{{Type: wire.Types["eds"], Names: []string{"bench"}}},
		BasePort:      basePort, Remember: true, ConnectTimeout: patience,
	})
	connected := clients.Connect(patience)
	t.Cleanup(clients.Close)
	if !connected.Complete || connected.Settled != streams {
		t.Fatalf("connected %+v", connected)
	}
	return clients
}

// Each change reaches every stream, and each is acknowledged.
func TestEveryStreamReceivesAndAcknowledgesAChange(t *testing.T) {
	fanout, address := serve(t, 10)
	clients := connect(t, address, 20)
	clients.Reset()
	at := time.Now()
	fanout.Change()
	seen := clients.Wait(patience, func(s Snapshot) bool { return s.Sequence[0] == 1 })
	fanout.AwaitAcks(40)

	if seen.Responses != 20 || fanout.Counts().Acks != 40 || fanout.Counts().Nacks != 0 {
		t.Errorf("got %+v and %+v", seen, fanout.Counts())
	}
	staleness := clients.Staleness([]Change{{1, at}, {2, at}})
	if staleness.N != 20 || staleness.Missing != 20 || staleness.MaxMS <= 0 {
		t.Errorf("got %+v", staleness)
	}
}

// Messages larger than the flow-control windows, and more ACKs than the server's window, get through.
func TestLargeMessagesAndManyAcksPassFlowControl(t *testing.T) {
	fanout, address := serve(t, 100_000)
	clients := connect(t, address, 1)
	if size := clients.Snapshot().Bytes; size < 2<<20 {
		t.Fatalf("the response is only %d bytes", size)
	}
	small, smallAddress := serve(t, 1)
	many := connect(t, smallAddress, 1)
	for range 2_000 {
		small.Change()
	}
	seen := many.Wait(patience, func(s Snapshot) bool { return s.Sequence[0] == 2_000 })
	small.AwaitAcks(2_001)

	if !seen.Complete || fanout.Counts().Nacks != 0 {
		t.Errorf("got %+v", seen)
	}
}

// A reconnect opens every stream again and counts what it brings from zero.
func TestReconnectCountsOnlyWhatItBrings(t *testing.T) {
	_, address := serve(t, 10)
	clients := connect(t, address, 5)
	again, err := clients.Reconnect(patience, 100*time.Millisecond)

	if err != nil || again.Connected != 5 || again.Resources != 5 {
		t.Errorf("got %+v, %v", again, err)
	}
}

// A server that is not there is counted as failed, with the reason.
func TestRefusedConnectionIsFailedWithItsReason(t *testing.T) {
	clients := New(Options{
		Target: h2stream.Target{Address: "127.0.0.1:1", Path: wire.DeltaMethod}, Nodes: make([]Node, 3),
		Subscriptions: []Subscription{{Type: wire.Types["eds"]}}, ConnectTimeout: patience,
	})
	connected := clients.Connect(patience)
	clients.Close()

	if connected.Failed != 3 || connected.Errors["dial: connect: connection refused"] != 3 {
		t.Errorf("got %+v", connected)
	}
}
