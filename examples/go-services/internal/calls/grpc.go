package calls

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"sync"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/encoding/protojson"

	"proa.dev/examples/go-services/internal/echo"
	"proa.dev/examples/go-services/internal/outbound"
	"proa.dev/examples/go-services/internal/trace"
	"proa.dev/examples/go-services/shoppb"
)

// GRPCResult is the JSON answer of /grpc: the last answer, and counts over all calls.
type GRPCResult struct {
	Workload   string         `json:"workload"`
	Target     string         `json:"target"`
	Calls      int            `json:"calls"`
	ByWorkload map[string]int `json:"by_workload"`
	ByCode     map[string]int `json:"by_code"`
	Messages   int            `json:"messages"`
	Error      string         `json:"error,omitempty"`
	Reply      any            `json:"reply"`
	DurationMS float64        `json:"duration_ms"`
}

// maxConcurrent bounds c, the calls in flight at once.
const maxConcurrent = 256

// GRPC serves /grpc?target=NAME:PORT[&n=1][&c=1][&h=NAME:VALUE…][&timeout=30s][&watch=0][&interval_ms=0]: n Echo
// calls (or Watch calls of so many messages) over one ClientConn of its own, c at a time.
func GRPC(self echo.Self, sidecar outbound.Sidecar) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		query := r.URL.Query()
		p, err := readPlan(query)
		concurrent, concurrentErr := strconv.Atoi(orOne(query.Get("c")))
		messages, watchErr := strconv.ParseUint(orZero(query.Get("watch")), 10, 32)
		interval, intervalErr := strconv.ParseUint(orZero(query.Get("interval_ms")), 10, 32)
		switch {
		case err != nil:
		case query.Get("target") == "":
			err = fmt.Errorf("target: is required, such as payments:9090")
		case concurrentErr != nil || concurrent < 1 || concurrent > maxConcurrent:
			err = fmt.Errorf("c: must be 1..%d, got %q", maxConcurrent, query.Get("c"))
		case watchErr != nil || intervalErr != nil:
			err = fmt.Errorf("watch, interval_ms: must be counts")
		}
		if err != nil {
			http.Error(w, err.Error(), http.StatusBadRequest)
			return
		}
		conn, err := outbound.Dial(sidecar, query.Get("target"))
		if err != nil {
			http.Error(w, err.Error(), http.StatusBadRequest)
			return
		}
		defer conn.Close()
		watch := &shoppb.WatchRequest{Message: "hello", Count: uint32(messages), IntervalMs: uint32(interval)}
		run := grpcRun{client: shoppb.NewEchoClient(conn), plan: p, watch: watch}
		run.result = GRPCResult{
			Workload: self.Workload, Target: query.Get("target"),
			ByWorkload: map[string]int{}, ByCode: map[string]int{},
		}
		start := time.Now()
		run.all(trace.FromHTTP(r.Header).ToGRPC(r.Context()), concurrent)
		run.result.DurationMS = float64(time.Since(start).Microseconds()) / 1000
		echo.WriteJSON(w, run.result)
	})
}

func orOne(text string) string {
	if text == "" {
		return "1"
	}
	return text
}

type grpcRun struct {
	client shoppb.EchoClient
	plan   plan
	watch  *shoppb.WatchRequest

	mu     sync.Mutex
	result GRPCResult
}

// all makes the planned calls, so many at a time.
func (g *grpcRun) all(ctx context.Context, concurrent int) {
	for _, pair := range g.plan.headers {
		ctx = metadata.AppendToOutgoingContext(ctx, pair[0], pair[1])
	}
	slots := make(chan struct{}, concurrent)
	var calls sync.WaitGroup
	for range g.plan.count {
		slots <- struct{}{}
		calls.Go(func() {
			g.one(ctx)
			<-slots
		})
	}
	calls.Wait()
}

// one makes one call with the plan's timeout and counts it.
func (g *grpcRun) one(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, g.plan.timeout)
	defer cancel()
	var header metadata.MD
	var reply *shoppb.EchoReply
	var err error
	received := 0
	if g.watch.GetCount() == 0 {
		reply, err = g.client.Echo(ctx, &shoppb.EchoRequest{Message: g.watch.GetMessage()}, grpc.Header(&header))
		if err == nil {
			received = 1
		}
	} else {
		reply, received, err = g.stream(ctx, &header)
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	g.result.Calls++
	g.result.Messages += received
	g.result.ByCode[status.Code(err).String()]++
	if workload := echo.First(header, "x-shop-workload"); workload != "" {
		g.result.ByWorkload[workload]++
	}
	if err != nil {
		g.result.Error = err.Error()
	}
	if reply != nil {
		g.result.Reply = rawProto(reply)
	}
}

// stream makes one Watch call and returns its last message and how many arrived.
func (g *grpcRun) stream(ctx context.Context, header *metadata.MD) (*shoppb.EchoReply, int, error) {
	stream, err := g.client.Watch(ctx, g.watch)
	if err != nil {
		return nil, 0, err
	}
	var last *shoppb.EchoReply
	for received := 0; ; received++ {
		reply, err := stream.Recv()
		if received == 0 {
			*header, _ = stream.Header()
		}
		if err == io.EOF {
			return last, received, nil
		}
		if err != nil {
			return last, received, err
		}
		last = reply
	}
}

// rawProto is a message in proto's JSON form, with zero values and the names of shop.proto.
func rawProto(reply *shoppb.EchoReply) any {
	text, err := protojson.MarshalOptions{EmitUnpopulated: true, UseProtoNames: true}.Marshal(reply)
	if err != nil {
		return err.Error()
	}
	return rawJSON(text)
}

type rawJSON []byte

// MarshalJSON returns the text as it is.
func (r rawJSON) MarshalJSON() ([]byte, error) { return r, nil }
