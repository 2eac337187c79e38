// Command xdsload is many xDS clients in one process, for benchmarks: see README.md.
package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"syscall"
	"time"

	"proa.dev/benchmarks/baseline/internal/fleet"
)

// Exit codes: 0 ok, 1 failed, 2 wrong usage.
const (
	exitFailed = 1
	exitUsage  = 2
)

// modes are what xdsload does once its streams are open.
var modes = []string{"hold", "fanout", "connect-storm", "reconnect"}

// errUsage marks an error of the caller.
var errUsage = errors.New("usage")

func main() {
	s, err := parse(os.Args[1:])
	if err == nil {
		err = run(s)
	}
	switch {
	case err == nil, errors.Is(err, flag.ErrHelp):
	case errors.Is(err, errUsage):
		fmt.Fprintf(os.Stderr, "xdsload: %s\n", err)
		os.Exit(exitUsage)
	default:
		fmt.Fprintf(os.Stderr, "xdsload: %s\n", err)
		os.Exit(exitFailed)
	}
}

// run connects and does what the mode says. Every answer is one JSON line on standard output.
func run(s settings) error {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, os.Interrupt)
	defer stop()
	clients := fleet.New(s.options)
	control := &control{fleet: clients, settings: s, out: json.NewEncoder(os.Stdout), quit: make(chan struct{})}
	address, err := control.listen()
	if err != nil {
		return err
	}
	connected := clients.Connect(s.timeout)
	defer clients.Close()
	if err := control.write("connected", address, connected); err != nil {
		return err
	}
	switch s.mode {
	case "connect-storm":
	case "reconnect":
		again, err := clients.Reconnect(s.timeout, s.quiet)
		if err != nil {
			return err
		}
		if err := control.write("reconnected", "", again); err != nil {
			return err
		}
		connected = again
	case "fanout":
		if err := control.rounds(ctx); err != nil {
			return err
		}
		return nil
	default:
		control.wait(ctx)
		return control.write("final", "", clients.Snapshot())
	}
	if connected.Failed > 0 || !connected.Complete {
		return fmt.Errorf("%d of %d streams failed, %d not settled: %v",
			connected.Failed, connected.Streams, connected.Streams-connected.Settled-connected.Failed, connected.Errors)
	}
	return nil
}

// event is one line of output.
type event struct {
	Event   string  `json:"event"`
	At      float64 `json:"at"`
	PID     int     `json:"pid"`
	Control string  `json:"control,omitempty"`
	fleet.Snapshot
}

func (c *control) write(name, address string, snapshot fleet.Snapshot) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	at := float64(time.Now().UnixMicro()) / 1e6
	return c.out.Encode(event{Event: name, At: at, PID: os.Getpid(), Control: address, Snapshot: snapshot})
}
