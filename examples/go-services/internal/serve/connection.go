package serve

import (
	"context"
	"sync/atomic"

	"google.golang.org/grpc/stats"
)

// connectionCounter numbers the connections of a gRPC server.
type connectionCounter struct{ accepted atomic.Uint64 }

func (c *connectionCounter) TagConn(ctx context.Context, _ *stats.ConnTagInfo) context.Context {
	return context.WithValue(ctx, connectionKey{}, c.accepted.Add(1))
}

func (c *connectionCounter) TagRPC(ctx context.Context, _ *stats.RPCTagInfo) context.Context {
	return ctx
}
func (c *connectionCounter) HandleConn(context.Context, stats.ConnStats) {}
func (c *connectionCounter) HandleRPC(context.Context, stats.RPCStats)   {}
