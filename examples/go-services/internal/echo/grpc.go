package echo

import (
	"cmp"
	"context"
	"slices"
	"strconv"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/peer"
	"google.golang.org/grpc/status"

	"proa.dev/examples/go-services/internal/serve"
	"proa.dev/examples/go-services/internal/steer"
	"proa.dev/examples/go-services/shoppb"
)

// GRPC is the Echo service.
type GRPC struct {
	shoppb.UnimplementedEchoServer

	Self     Self
	attempts steer.Attempts
}

// Echo answers once.
func (g *GRPC) Echo(ctx context.Context, request *shoppb.EchoRequest) (*shoppb.EchoReply, error) {
	if err := g.Obey(ctx); err != nil {
		return nil, err
	}
	return g.reply(ctx, request.GetMessage()), nil
}

// Watch answers count times.
func (g *GRPC) Watch(request *shoppb.WatchRequest, stream grpc.ServerStreamingServer[shoppb.EchoReply]) error {
	if err := g.Obey(stream.Context()); err != nil {
		return err
	}
	for i := range request.GetCount() {
		if i > 0 {
			select {
			case <-time.After(time.Duration(request.GetIntervalMs()) * time.Millisecond):
			case <-stream.Context().Done():
				return stream.Context().Err()
			}
		}
		if err := stream.Send(g.reply(stream.Context(), request.GetMessage())); err != nil {
			return err
		}
	}
	return nil
}

// Obey names the workload in the answer's header and does what the call's metadata asks; its error is the
// answer.
func (g *GRPC) Obey(ctx context.Context) error {
	_ = grpc.SetHeader(ctx, metadata.Pairs("x-shop-workload", g.Self.Workload, "x-shop-version", g.Self.Version))
	incoming, _ := metadata.FromIncomingContext(ctx)
	order, err := steer.Read(func(name string) string { return First(incoming, name) })
	if err != nil {
		return status.Error(codes.InvalidArgument, err.Error())
	}
	if order.Delay > 0 {
		select {
		case <-time.After(order.Delay):
		case <-ctx.Done():
			return status.FromContextError(ctx.Err()).Err()
		}
	}
	if order.FailFirst > 0 {
		if g.attempts.Next(order.RequestID) > order.FailFirst {
			return nil
		}
		return status.Error(cmp.Or(order.Code, codes.Unavailable), "asked for by x-shop metadata")
	}
	if order.Code != codes.OK {
		return status.Error(order.Code, "asked for by x-shop metadata")
	}
	return nil
}

// First returns the first value of a metadata name, "" when it is absent.
func First(md metadata.MD, name string) string {
	if values := md.Get(name); len(values) > 0 {
		return values[0]
	}
	return ""
}

// AttemptGRPC returns x-envoy-attempt-count of the call that ctx serves, 0 when it carries none.
func AttemptGRPC(ctx context.Context) uint32 {
	incoming, _ := metadata.FromIncomingContext(ctx)
	attempt, _ := strconv.ParseUint(First(incoming, "x-envoy-attempt-count"), 10, 32)
	return uint32(attempt)
}

func (g *GRPC) reply(ctx context.Context, message string) *shoppb.EchoReply {
	incoming, _ := metadata.FromIncomingContext(ctx)
	method, _ := grpc.Method(ctx)
	reply := &shoppb.EchoReply{
		Workload: g.Self.Workload, Version: g.Self.Version,
		Method: method, Authority: First(incoming, ":authority"),
		Attempt: AttemptGRPC(ctx), Message: message, Connection: uint32(serve.Connection(ctx)),
	}
	if from, ok := peer.FromContext(ctx); ok {
		reply.Remote = from.Addr.String()
	}
	for name, values := range incoming {
		for _, value := range values {
			reply.Headers = append(reply.Headers, &shoppb.Header{Name: name, Value: value})
		}
	}
	slices.SortStableFunc(reply.Headers, func(a, b *shoppb.Header) int { return cmp.Compare(a.GetName(), b.GetName()) })
	return reply
}
