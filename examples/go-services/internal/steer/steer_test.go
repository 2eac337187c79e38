package steer

import (
	"fmt"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
)

func lookup(headers map[string]string) func(string) string {
	return func(name string) string { return headers[name] }
}

// Each header sets its part of the order.
func TestReadReturnsTheWholeOrder(t *testing.T) {
	order, err := Read(lookup(map[string]string{
		"x-shop-delay": "200ms", "x-shop-status": "503", "x-shop-grpc-code": "14",
		"x-shop-fail-first": "2", "x-shop-reset": "true", "x-request-id": "r",
	}))

	want := Order{
		Delay: 200 * time.Millisecond, Status: 503, Code: codes.Unavailable, FailFirst: 2, Reset: true, RequestID: "r",
	}
	if err != nil || order != want {
		t.Errorf("got %+v, %v, want %+v", order, err, want)
	}
}

// A value that makes no sense is refused.
func TestReadRefusesBadValues(t *testing.T) {
	for _, headers := range []map[string]string{
		{"x-shop-delay": "soon"},
		{"x-shop-delay": "-1s"},
		{"x-shop-delay": "24h"},
		{"x-shop-status": "99"},
		{"x-shop-status": "600"},
		{"x-shop-grpc-code": "17"},
		{"x-shop-grpc-code": "Nope"},
		{"x-shop-fail-first": "-1", "x-request-id": "r"},
		{"x-shop-fail-first": "1"},
	} {
		if order, err := Read(lookup(headers)); err == nil {
			t.Errorf("%v: got %+v, want an error", headers, order)
		}
	}
}

// A code is known by number, by the specification's name and by Go's.
func TestParseCodeKnowsNumbersAndBothSpellings(t *testing.T) {
	for text, want := range map[string]codes.Code{
		"14": codes.Unavailable, "UNAVAILABLE": codes.Unavailable, "Unavailable": codes.Unavailable,
		"DeadlineExceeded": codes.DeadlineExceeded, "DEADLINE_EXCEEDED": codes.DeadlineExceeded,
	} {
		if got, err := ParseCode(text); err != nil || got != want {
			t.Errorf("%s: got %v, %v, want %v", text, got, err, want)
		}
	}
}

// Attempts are counted for each request id by itself, and the memory of them is bounded.
func TestAttemptsCountPerRequestIDInBoundedMemory(t *testing.T) {
	var attempts Attempts
	first, second, other := attempts.Next("a"), attempts.Next("a"), attempts.Next("b")
	if first != 1 || second != 2 || other != 1 {
		t.Errorf("got %d %d %d, want 1 2 1", first, second, other)
	}
	for i := range remembered + 1 {
		attempts.Next(fmt.Sprint("id-", i))
	}

	if len(attempts.seen) != remembered || len(attempts.order) != remembered {
		t.Errorf("remembers %d and %d, want %d", len(attempts.seen), len(attempts.order), remembered)
	}
	if again := attempts.Next("a"); again != 1 {
		t.Errorf("the oldest id: got attempt %d, want it forgotten", again)
	}
}
