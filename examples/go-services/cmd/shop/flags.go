package main

import (
	"flag"
	"fmt"
	"log/slog"
	"net"
	"os"
	"strings"
	"time"

	"proa.dev/examples/go-services/internal/echo"
	"proa.dev/examples/go-services/internal/outbound"
	"proa.dev/examples/go-services/internal/serve"
	"proa.dev/examples/go-services/internal/services"
)

// options are the flags that every service takes. Each has an environment variable, SHOP_ and its name in
// capitals, which a container sets more easily; the flag wins.
type options struct {
	listen   string
	outbound string
	workload string
	version  string
	drain    time.Duration
	names    services.Names
}

// parse reads args with the common flags and those that more adds.
func parse(name string, args []string, more func(*flag.FlagSet)) (options, error) {
	var o options
	flags := flag.NewFlagSet("shop "+name, flag.ContinueOnError)
	flags.StringVar(&o.listen, "listen", os.Getenv("SHOP_LISTEN"), "address to bind, such as 127.0.12.2:8080; a wildcard such as :8080 only without --outbound (SHOP_LISTEN)")
	flags.StringVar(&o.outbound, "outbound", os.Getenv("SHOP_OUTBOUND"), "the sidecar's outbound address, podIP:15001; without it names are dialled directly (SHOP_OUTBOUND)")
	flags.StringVar(&o.workload, "workload", env("SHOP_WORKLOAD", name), "name in answers (SHOP_WORKLOAD)")
	flags.StringVar(&o.version, "version", env("SHOP_VERSION", "v1"), "version in answers (SHOP_VERSION)")
	flags.DurationVar(&o.drain, "drain", 10*time.Second, "how long SIGTERM waits for requests in flight")
	flags.StringVar(&o.names.Orders, "orders", env("SHOP_ORDERS", "http://orders"), "URL of orders (SHOP_ORDERS)")
	flags.StringVar(&o.names.Payments, "payments", env("SHOP_PAYMENTS", "payments:9090"), "name and port of payments (SHOP_PAYMENTS)")
	flags.StringVar(&o.names.Stock, "stock", env("SHOP_STOCK", "stock:9090"), "name and port of stock (SHOP_STOCK)")
	if more != nil {
		more(flags)
	}
	if err := flags.Parse(args); err != nil {
		if err == flag.ErrHelp {
			return o, err
		}
		return o, fmt.Errorf("%w: %w", errUsage, err)
	}
	if flags.NArg() > 0 {
		return o, fmt.Errorf("%w: unexpected argument %q", errUsage, flags.Arg(0))
	}
	o.names.Orders = strings.TrimSuffix(o.names.Orders, "/")
	slog.SetDefault(slog.Default().With("workload", o.workload))
	return o, nil
}

func env(name, fallback string) string {
	if value := os.Getenv(name); value != "" {
		return value
	}
	return fallback
}

func (o options) self() echo.Self { return echo.Self{Workload: o.workload, Version: o.version} }

func (o options) sidecar() outbound.Sidecar { return outbound.Sidecar(o.outbound) }

// bind returns the listener of a service.
func (o options) bind() (net.Listener, error) {
	if o.listen == "" {
		return nil, fmt.Errorf("%w: --listen ADDRESS:PORT is required", errUsage)
	}
	if o.outbound == "" {
		return serve.ListenAnywhere(o.listen)
	}
	return serve.Listen(o.listen)
}
