// Command shop is every service of the shop in one binary: the first argument, or the name that the binary is
// called by, chooses which.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"log/slog"
	"net/http"
	"os"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"
)

// Exit codes: 0 ok, 1 failed, 2 wrong usage.
const (
	exitFailed = 1
	exitUsage  = 2
)

// command runs one service until ctx ends.
type command struct {
	summary string
	run     func(ctx context.Context, name string, args []string) error
}

func commands() map[string]command {
	return map[string]command{
		"web":      {"HTTP service that sells: calls stock and orders", runWeb},
		"orders":   {"HTTP service that places orders: calls stock and payments", runOrders},
		"payments": {"gRPC service; --fail-percent makes it flaky", runPayments},
		"stock":    {"gRPC service", runStock},
		"echo":     {"HTTP service that answers with what it received", runEcho},
		"tcp":      {"TCP service that speaks first and echoes lines", runTCP},
		"load":     {"sends requests at a fixed rate and counts the answers", runLoad},
	}
}

// names is the order of the commands in the usage text.
var names = []string{"web", "orders", "payments", "stock", "echo", "tcp", "load"}

// errUsage marks an error of the caller: exit code 2.
var errUsage = errors.New("usage")

func main() {
	slog.SetDefault(slog.New(slog.NewJSONHandler(os.Stderr, nil)))
	name, args := filepath.Base(os.Args[0]), os.Args[1:]
	chosen, known := commands()[name]
	if !known && len(args) > 0 {
		name, args = args[0], args[1:]
		chosen, known = commands()[name]
	}
	if !known {
		usage()
		os.Exit(exitUsage)
	}
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, os.Interrupt)
	err := chosen.run(ctx, name, args)
	stop()
	switch {
	case err == nil, errors.Is(err, flag.ErrHelp):
	case errors.Is(err, errUsage):
		fmt.Fprintf(os.Stderr, "shop %s: %s\n", name, err)
		os.Exit(exitUsage)
	case errors.Is(err, http.ErrServerClosed):
	default:
		fmt.Fprintf(os.Stderr, "shop %s: %s\n", name, err)
		os.Exit(exitFailed)
	}
}

func usage() {
	var text strings.Builder
	text.WriteString("usage: shop COMMAND [FLAGS]; shop COMMAND --help lists the flags\n\n")
	for _, name := range names {
		fmt.Fprintf(&text, "  %-9s %s\n", name, commands()[name].summary)
	}
	fmt.Fprint(os.Stderr, text.String())
}
