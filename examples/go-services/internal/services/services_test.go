package services

import (
	"context"
	"encoding/json"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"

	"proa.dev/examples/go-services/internal/calls"
	"proa.dev/examples/go-services/internal/echo"
	"proa.dev/examples/go-services/internal/outbound"
	"proa.dev/examples/go-services/internal/serve"
	"proa.dev/examples/go-services/shoppb"
)

// shop is all services without a mesh between them.
type shop struct {
	names    Names
	payments *Payments
	web      *httptest.Server

	mu    sync.Mutex
	trace []string // baggage of each gRPC call, joined
}

func (s *shop) note(ctx context.Context, request any, _ *grpc.UnaryServerInfo, next grpc.UnaryHandler) (any, error) {
	incoming, _ := metadata.FromIncomingContext(ctx)
	s.mu.Lock()
	s.trace = append(s.trace, strings.Join(incoming.Get("baggage"), " "))
	s.mu.Unlock()
	return next(ctx, request)
}

func open(t *testing.T) *shop {
	t.Helper()
	s := &shop{payments: &Payments{Echo: &echo.GRPC{Self: echo.Self{Workload: "payments"}}, FailCode: codes.Unavailable}}
	listener, err := serve.Listen("127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	server := grpc.NewServer(grpc.UnaryInterceptor(s.note))
	shoppb.RegisterPaymentsServer(server, s.payments)
	shoppb.RegisterStockServer(server, &Stock{Echo: &echo.GRPC{Self: echo.Self{Workload: "stock"}}})
	shoppb.RegisterEchoServer(server, &echo.GRPC{Self: echo.Self{Workload: "stock"}})
	go func() { _ = server.Serve(listener) }()
	t.Cleanup(server.Stop)
	s.names.Payments, s.names.Stock = listener.Addr().String(), listener.Addr().String()

	pool := &outbound.Pool{}
	t.Cleanup(pool.Close)
	self := echo.Self{Workload: "orders-v2", Version: "v2"}
	orders := httptest.NewServer(echo.Steered(self, Orders(self, s.names, pool)))
	t.Cleanup(orders.Close)
	s.names.Orders = orders.URL
	self = echo.Self{Workload: "web"}
	s.web = httptest.NewServer(echo.Steered(self, Web(self, "", s.names, pool)))
	t.Cleanup(s.web.Close)
	return s
}

func (s *shop) buy(t *testing.T) (*http.Response, []byte) {
	t.Helper()
	request, err := http.NewRequest(http.MethodGet, s.web.URL+"/buy", nil)
	if err != nil {
		t.Fatal(err)
	}
	request.Header.Add("baggage", "a=1")
	request.Header.Add("baggage", "b=2")
	response, err := s.web.Client().Do(request)
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close()
	body, err := io.ReadAll(response.Body)
	if err != nil {
		t.Fatal(err)
	}
	return response, body
}

// A purchase goes through every service, and the answer names each.
func TestBuyingGoesThroughEveryService(t *testing.T) {
	response, body := open(t).buy(t)
	var bought Bought
	if err := json.Unmarshal(body, &bought); err != nil {
		t.Fatalf("%v: %s", err, body)
	}

	if response.StatusCode != http.StatusOK || response.Header.Get("x-shop-orders") != "orders-v2" {
		t.Errorf("got %d, %v", response.StatusCode, response.Header)
	}
	placed := bought.Orders
	if bought.Workload != "web" || placed.Version != "v2" || placed.Stock != "stock" || placed.Payments != "payments" {
		t.Errorf("got %+v", bought)
	}
}

// Every call of a purchase carries every line of the caller's baggage: check, reserve, charge.
func TestBuyingCarriesTheTraceHeadersToTheLastCall(t *testing.T) {
	s := open(t)
	s.buy(t)

	if got := strings.Join(s.trace, "; "); got != "a=1 b=2; a=1 b=2; a=1 b=2" {
		t.Errorf("got %q", got)
	}
}

// When payments fails, the customer gets 502, and both hops say which service it was.
func TestFlakyPaymentsAreNamedInTheAnswer(t *testing.T) {
	s := open(t)
	s.payments.FailPercent = 100
	response, body := s.buy(t)

	if response.StatusCode != http.StatusBadGateway || response.Header.Get("x-shop-failed") != "orders" {
		t.Errorf("got %d, %v", response.StatusCode, response.Header)
	}
	if !strings.Contains(string(body), "payments") || !strings.Contains(string(body), "--fail-percent") {
		t.Errorf("got %s", body)
	}
}

// The /grpc endpoint makes its calls over one connection and counts who answered, with what code.
func TestGRPCCallsShareOneConnection(t *testing.T) {
	s := open(t)
	endpoint := httptest.NewServer(calls.GRPC(echo.Self{Workload: "web"}, ""))
	defer endpoint.Close()
	for query, wantCode := range map[string]string{"": "OK", "&h=x-shop-grpc-code:NotFound": "NotFound"} {
		client := http.Client{Timeout: 10 * time.Second}
		response, err := client.Get(endpoint.URL + "/grpc?n=30&c=4&target=" + s.names.Stock + query)
		if err != nil {
			t.Fatal(err)
		}
		var result calls.GRPCResult
		err = json.NewDecoder(response.Body).Decode(&result)
		_ = response.Body.Close()

		if err != nil || result.ByCode[wantCode] != 30 || result.ByWorkload["stock"] != 30 || result.Calls != 30 {
			t.Errorf("%q: got %+v, %v", query, result, err)
		}
	}
}
