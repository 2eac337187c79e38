// Package tcp serves a plain TCP protocol in which the server speaks first, as MySQL does; it never reads
// before its banner is sent.
package tcp

import (
	"bufio"
	"context"
	"fmt"
	"log/slog"
	"net"
	"sync"
	"time"
)

// Serve sends the banner line on each connection, then echoes lines, each after the prefix "echo ". When ctx
// ends it stops accepting and waits for the clients to finish, at most drain.
func Serve(ctx context.Context, listener net.Listener, banner string, drain time.Duration) error {
	var mu sync.Mutex
	open := map[net.Conn]struct{}{}
	var serving sync.WaitGroup
	stop := context.AfterFunc(ctx, func() { _ = listener.Close() })
	defer stop()
	slog.Info("listening", "address", listener.Addr().String())
	for {
		conn, err := listener.Accept()
		if err != nil {
			if ctx.Err() == nil {
				return err
			}
			break
		}
		mu.Lock()
		open[conn] = struct{}{}
		mu.Unlock()
		serving.Go(func() {
			converse(conn, banner)
			mu.Lock()
			delete(open, conn)
			mu.Unlock()
		})
	}
	slog.Info("stopping")
	done := make(chan struct{})
	go func() { serving.Wait(); close(done) }()
	select {
	case <-done:
		slog.Info("stopped")
		return nil
	case <-time.After(drain):
	}
	mu.Lock()
	defer mu.Unlock()
	for conn := range open {
		_ = conn.Close()
	}
	return fmt.Errorf("%d connections still open after %s were cut off", len(open), drain)
}

func converse(conn net.Conn, banner string) {
	defer conn.Close()
	if _, err := fmt.Fprintf(conn, "%s\n", banner); err != nil {
		return
	}
	lines := bufio.NewScanner(conn)
	for lines.Scan() {
		if _, err := fmt.Fprintf(conn, "echo %s\n", lines.Text()); err != nil {
			return
		}
	}
}
