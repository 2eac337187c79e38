package main

import (
	"context"
	"flag"
	"fmt"
	"net/http"

	"google.golang.org/grpc"

	"proa.dev/examples/go-services/internal/calls"
	"proa.dev/examples/go-services/internal/echo"
	"proa.dev/examples/go-services/internal/outbound"
	"proa.dev/examples/go-services/internal/serve"
	"proa.dev/examples/go-services/internal/services"
	"proa.dev/examples/go-services/internal/steer"
	"proa.dev/examples/go-services/internal/tcp"
	"proa.dev/examples/go-services/shoppb"
)

// serveHTTP serves business at / and the test endpoints that every HTTP service has.
func serveHTTP(ctx context.Context, o options, business func(*outbound.Pool) http.Handler) error {
	listener, err := o.bind()
	if err != nil {
		return err
	}
	pool := &outbound.Pool{Sidecar: o.sidecar()}
	defer pool.Close()
	mux := http.NewServeMux()
	mux.Handle("/", business(pool))
	mux.Handle("/echo", echo.Handler(o.self()))
	mux.Handle("/echo/", echo.Handler(o.self()))
	mux.Handle("/call", calls.HTTP(o.self(), o.sidecar()))
	mux.Handle("/grpc", calls.GRPC(o.self(), o.sidecar()))
	return serve.HTTP(ctx, listener, echo.Steered(o.self(), mux), o.drain)
}

func runWeb(ctx context.Context, name string, args []string) error {
	o, err := parse(name, args, nil)
	if err != nil {
		return err
	}
	return serveHTTP(ctx, o, func(pool *outbound.Pool) http.Handler {
		return services.Web(o.self(), o.sidecar(), o.names, pool)
	})
}

func runOrders(ctx context.Context, name string, args []string) error {
	o, err := parse(name, args, nil)
	if err != nil {
		return err
	}
	return serveHTTP(ctx, o, func(pool *outbound.Pool) http.Handler {
		return services.Orders(o.self(), o.names, pool)
	})
}

func runEcho(ctx context.Context, name string, args []string) error {
	o, err := parse(name, args, nil)
	if err != nil {
		return err
	}
	return serveHTTP(ctx, o, func(*outbound.Pool) http.Handler { return echo.Handler(o.self()) })
}

// serveGRPC serves Echo and what register adds.
func serveGRPC(ctx context.Context, o options, register func(*grpc.Server, *echo.GRPC)) error {
	listener, err := o.bind()
	if err != nil {
		return err
	}
	return serve.GRPC(ctx, listener, func(server *grpc.Server) {
		echoes := &echo.GRPC{Self: o.self()}
		shoppb.RegisterEchoServer(server, echoes)
		register(server, echoes)
	}, o.drain)
}

func runPayments(ctx context.Context, name string, args []string) error {
	var failPercent float64
	var failCode string
	o, err := parse(name, args, func(flags *flag.FlagSet) {
		flags.Float64Var(&failPercent, "fail-percent", 0, "share of charges that fail, 0..100")
		flags.StringVar(&failCode, "fail-code", "UNAVAILABLE", "gRPC status code of those, by name or number")
	})
	if err != nil {
		return err
	}
	if !(failPercent >= 0 && failPercent <= 100) {
		return fmt.Errorf("%w: --fail-percent: must be 0..100, got %v", errUsage, failPercent)
	}
	code, err := steer.ParseCode(failCode)
	if err != nil {
		return fmt.Errorf("%w: --fail-code: %w", errUsage, err)
	}
	return serveGRPC(ctx, o, func(server *grpc.Server, echoes *echo.GRPC) {
		shoppb.RegisterPaymentsServer(server, &services.Payments{Echo: echoes, FailPercent: failPercent, FailCode: code})
	})
}

func runStock(ctx context.Context, name string, args []string) error {
	o, err := parse(name, args, nil)
	if err != nil {
		return err
	}
	return serveGRPC(ctx, o, func(server *grpc.Server, echoes *echo.GRPC) {
		shoppb.RegisterStockServer(server, &services.Stock{Echo: echoes})
	})
}

func runTCP(ctx context.Context, name string, args []string) error {
	var banner string
	o, err := parse(name, args, func(flags *flag.FlagSet) {
		flags.StringVar(&banner, "banner", "hello", "line that is sent first on every connection")
	})
	if err != nil {
		return err
	}
	listener, err := o.bind()
	if err != nil {
		return err
	}
	return tcp.Serve(ctx, listener, banner, o.drain)
}
