// Package steer reads what a caller asks a service to do wrong on purpose, and never decides how it is done.
package steer

import (
	"fmt"
	"strconv"
	"strings"
	"sync"
	"time"

	"google.golang.org/grpc/codes"
)

// Order is what one request asks for; its zero value asks for nothing.
type Order struct {
	Delay     time.Duration
	Status    int
	Code      codes.Code
	FailFirst int
	Reset     bool
	RequestID string
}

// maxDelay bounds how long a caller can hold a connection of the service.
const maxDelay = 10 * time.Minute

// Read returns the order in a request's headers or gRPC metadata; lookup answers "" for an absent name.
func Read(lookup func(name string) string) (Order, error) {
	order := Order{RequestID: lookup("x-request-id"), Reset: lookup("x-shop-reset") == "true"}
	if text := lookup("x-shop-delay"); text != "" {
		delay, err := time.ParseDuration(text)
		if err != nil || delay < 0 || delay > maxDelay {
			return Order{}, fmt.Errorf("x-shop-delay: must be a duration of 0 to %s such as 200ms, got %q", maxDelay, text)
		}
		order.Delay = delay
	}
	if text := lookup("x-shop-status"); text != "" {
		status, err := strconv.Atoi(text)
		if err != nil || status < 200 || status > 599 {
			return Order{}, fmt.Errorf("x-shop-status: must be 200..599, got %q", text)
		}
		order.Status = status
	}
	if text := lookup("x-shop-grpc-code"); text != "" {
		code, err := ParseCode(text)
		if err != nil {
			return Order{}, fmt.Errorf("x-shop-grpc-code: %w", err)
		}
		order.Code = code
	}
	if text := lookup("x-shop-fail-first"); text != "" {
		count, err := strconv.Atoi(text)
		if err != nil || count < 0 {
			return Order{}, fmt.Errorf("x-shop-fail-first: must be a count of attempts, got %q", text)
		}
		if order.RequestID == "" {
			return Order{}, fmt.Errorf("x-shop-fail-first: needs an x-request-id, which names the attempts that belong together")
		}
		order.FailFirst = count
	}
	return order, nil
}

// ParseCode returns a gRPC status code from its number or its name, such as 14, UNAVAILABLE or Unavailable.
func ParseCode(text string) (codes.Code, error) {
	var code codes.Code
	quoted := text
	if _, err := strconv.Atoi(text); err != nil {
		quoted = strconv.Quote(snake(text))
	}
	if err := code.UnmarshalJSON([]byte(quoted)); err != nil {
		return codes.OK, fmt.Errorf("must be a gRPC status code such as 14 or UNAVAILABLE, got %q", text)
	}
	return code, nil
}

// snake turns Go's DeadlineExceeded into the specification's DEADLINE_EXCEEDED.
func snake(name string) string {
	if strings.ToUpper(name) == name {
		return name
	}
	var out strings.Builder
	for i, r := range name {
		if i > 0 && r >= 'A' && r <= 'Z' && name[i-1] >= 'a' && name[i-1] <= 'z' {
			out.WriteByte('_')
		}
		out.WriteRune(r)
	}
	return strings.ToUpper(out.String())
}

// remembered bounds the memory of Attempts: the oldest request id leaves first.
const remembered = 10_000

// Attempts counts the attempts of each request id that this process has served.
type Attempts struct {
	mu    sync.Mutex
	seen  map[string]int
	order []string
}

// Next returns the number of this attempt of the request id, from 1.
func (a *Attempts) Next(id string) int {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.seen == nil {
		a.seen = map[string]int{}
	}
	if _, known := a.seen[id]; !known {
		if len(a.order) == remembered {
			delete(a.seen, a.order[0])
			a.order = a.order[1:]
		}
		a.order = append(a.order, id)
	}
	a.seen[id]++
	return a.seen[id]
}
