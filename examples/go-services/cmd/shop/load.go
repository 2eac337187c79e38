package main

import (
	"context"
	"flag"
	"fmt"
	"log/slog"
	"math"
	"net/http"
	"net/url"
	"os"
	"strings"
	"time"

	"proa.dev/examples/go-services/internal/load"
	"proa.dev/examples/go-services/internal/outbound"
	"proa.dev/examples/go-services/internal/serve"
)

// headerFlag collects repeated --header NAME:VALUE.
type headerFlag http.Header

func (h headerFlag) String() string { return "" }

// Set adds one header.
func (h headerFlag) Set(text string) error {
	name, value, found := strings.Cut(text, ":")
	if !found || name == "" {
		return fmt.Errorf("must be NAME:VALUE, got %q", text)
	}
	http.Header(h).Add(name, strings.TrimSpace(value))
	return nil
}

func runLoad(ctx context.Context, name string, args []string) error {
	run := load.Run{Header: http.Header{}}
	var target, proto string
	var fresh, quiet bool
	o, err := parse(name, args, func(flags *flag.FlagSet) {
		flags.StringVar(&target, "url", env("SHOP_URL", "http://web/buy"), "http://NAME[:PORT]/PATH, or grpc://NAME:PORT for Echo calls (SHOP_URL)")
		flags.StringVar(&run.Method, "method", http.MethodGet, "HTTP method")
		flags.Var(headerFlag(run.Header), "header", "NAME:VALUE to send, repeatable; Host replaces the URL's")
		flags.Float64Var(&run.RPS, "rps", 100, "requests started per second")
		flags.DurationVar(&run.Duration, "duration", 0, "how long to send; 0: until SIGTERM")
		flags.DurationVar(&run.Timeout, "timeout", 10*time.Second, "of one request")
		flags.IntVar(&run.InFlight, "in-flight", 1000, "most requests at once; those beyond are skipped and counted")
		flags.BoolVar(&fresh, "new-connections", false, "open a connection for each request")
		flags.StringVar(&proto, "proto", "http1", "http1 or h2 (without TLS)")
		flags.BoolVar(&quiet, "quiet", false, "write the final report only")
	})
	if err != nil {
		return err
	}
	if run.URL, err = url.Parse(target); err != nil {
		return fmt.Errorf("%w: --url: %w", errUsage, err)
	}
	switch {
	case run.RPS <= 0 || math.IsInf(run.RPS, 0) || math.IsNaN(run.RPS):
		return fmt.Errorf("%w: --rps: must be above 0, got %v", errUsage, run.RPS)
	case run.InFlight < 1:
		return fmt.Errorf("%w: --in-flight: must be at least 1, got %d", errUsage, run.InFlight)
	case proto != "http1" && proto != "h2":
		return fmt.Errorf("%w: --proto: must be http1 or h2, got %q", errUsage, proto)
	case fresh && proto == "h2":
		return fmt.Errorf("%w: --new-connections works with http1 and grpc:// only", errUsage)
	case run.URL.Scheme != "http" && run.URL.Scheme != "grpc":
		return fmt.Errorf("%w: --url: must be http://… or grpc://NAME:PORT, got %q", errUsage, target)
	}
	if proto == "h2" {
		run.Version = outbound.H2C
	}
	if fresh {
		run.Connections = outbound.Fresh
	}
	run.Sidecar, run.Seconds = o.sidecar(), !quiet
	if o.listen != "" {
		if err := serveHealth(ctx, o); err != nil {
			return err
		}
	}
	_, err = run.Do(ctx, os.Stdout)
	return err
}

// serveHealth serves /healthz beside the load.
func serveHealth(ctx context.Context, o options) error {
	listener, err := o.bind()
	if err != nil {
		return err
	}
	go func() {
		if err := serve.HTTP(ctx, listener, http.NotFoundHandler(), o.drain); err != nil {
			slog.Error("health", "error", err)
		}
	}()
	return nil
}
