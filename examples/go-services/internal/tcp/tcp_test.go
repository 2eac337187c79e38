package tcp

import (
	"bufio"
	"context"
	"fmt"
	"net"
	"testing"
	"time"
)

const patience = 10 * time.Second

// The server speaks first, echoes lines, and when it stops lets the conversation end.
func TestServerSpeaksFirstAndLetsConversationsEnd(t *testing.T) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(context.Background())
	served := make(chan error, 1)
	go func() { served <- Serve(ctx, listener, "hello", patience) }()
	conn, err := net.Dial("tcp", listener.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	_ = conn.SetDeadline(time.Now().Add(patience))
	lines := bufio.NewReader(conn)
	banner, _ := lines.ReadString('\n')
	stop()
	_, _ = fmt.Fprintln(conn, "still there")
	echoed, _ := lines.ReadString('\n')
	_ = conn.Close()

	if banner != "hello\n" || echoed != "echo still there\n" {
		t.Errorf("got %q and %q", banner, echoed)
	}
	if err := <-served; err != nil {
		t.Errorf("stop: %v", err)
	}
}

// A conversation that does not end is cut off after the drain time, and reported.
func TestStopReportsWhatItCutsOff(t *testing.T) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(context.Background())
	served := make(chan error, 1)
	go func() { served <- Serve(ctx, listener, "hello", 20*time.Millisecond) }()
	conn, err := net.Dial("tcp", listener.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	_ = conn.SetDeadline(time.Now().Add(patience))
	_, _ = bufio.NewReader(conn).ReadString('\n')
	stop()

	if err := <-served; err == nil {
		t.Error("got no error for an open connection")
	}
}
