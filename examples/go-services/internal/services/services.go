// Package services is the shop's business: who calls whom when something is bought. It never knows where the
// others run, only their names.
package services

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"proa.dev/examples/go-services/internal/echo"
	"proa.dev/examples/go-services/internal/outbound"
	"proa.dev/examples/go-services/internal/trace"
	"proa.dev/examples/go-services/shoppb"
)

// Names are the addresses of the services that others call, as the mesh knows them.
type Names struct {
	Orders   string // a URL, such as http://orders
	Payments string // NAME:PORT
	Stock    string // NAME:PORT
}

// callTimeout bounds one call to another service; retries and shorter timeouts are the mesh's.
const callTimeout = 10 * time.Second

// maxAnswerBytes bounds what web reads of an answer of orders.
const maxAnswerBytes = 1 << 20

// Placed is the answer of orders.
type Placed struct {
	Workload    string `json:"workload"`
	Version     string `json:"version"`
	Payments    string `json:"payments"`
	Stock       string `json:"stock"`
	Receipt     string `json:"receipt"`
	Reservation string `json:"reservation"`
}

// Bought is the answer of web.
type Bought struct {
	Workload string `json:"workload"`
	Left     uint32 `json:"left"`
	Orders   Placed `json:"orders"`
}

// Web asks stock what is left (gRPC), then orders to place the order (HTTP). The answer's x-shop-orders header
// names the orders workload that did.
func Web(self echo.Self, sidecar outbound.Sidecar, names Names, pool *outbound.Pool) http.Handler {
	client := &http.Client{Transport: outbound.Transport(sidecar, outbound.HTTP1, outbound.Reused)}
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		ctx, cancel := context.WithTimeout(r.Context(), callTimeout)
		defer cancel()
		headers := trace.FromHTTP(r.Header)
		left, err := check(headers.ToGRPC(ctx), pool, names.Stock)
		if err != nil {
			unavailable(w, "stock", err)
			return
		}
		bought := Bought{Workload: self.Workload, Left: left}
		request, err := http.NewRequestWithContext(ctx, http.MethodPost, names.Orders+"/orders", nil)
		if err != nil {
			unavailable(w, "orders", err)
			return
		}
		headers.ToHTTP(request.Header)
		response, err := client.Do(request)
		if err != nil {
			unavailable(w, "orders", err)
			return
		}
		defer response.Body.Close()
		if workload := response.Header.Get("x-shop-workload"); workload != "" {
			w.Header().Set("x-shop-orders", workload)
		}
		answer, err := io.ReadAll(io.LimitReader(response.Body, maxAnswerBytes))
		if err == nil && response.StatusCode != http.StatusOK {
			err = fmt.Errorf("status %d: %.200s", response.StatusCode, answer)
		}
		if err == nil {
			err = json.Unmarshal(answer, &bought.Orders)
		}
		if err != nil {
			unavailable(w, "orders", err)
			return
		}
		echo.WriteJSON(w, bought)
	})
}

func check(ctx context.Context, pool *outbound.Pool, stock string) (uint32, error) {
	conn, err := pool.Get(stock)
	if err != nil {
		return 0, err
	}
	reply, err := shoppb.NewStockClient(conn).Check(ctx, &shoppb.CheckRequest{Item: "boat"})
	return reply.GetLeft(), err
}

// Orders reserves the item at stock, then charges it at payments (both gRPC).
func Orders(self echo.Self, names Names, pool *outbound.Pool) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		ctx, cancel := context.WithTimeout(r.Context(), callTimeout)
		defer cancel()
		ctx = trace.FromHTTP(r.Header).ToGRPC(ctx)
		placed := Placed{Workload: self.Workload, Version: self.Version}
		if err := placed.reserve(ctx, pool, names.Stock); err != nil {
			unavailable(w, "stock", err)
			return
		}
		if err := placed.charge(ctx, pool, names.Payments); err != nil {
			unavailable(w, "payments", err)
			return
		}
		echo.WriteJSON(w, placed)
	})
}

func (p *Placed) reserve(ctx context.Context, pool *outbound.Pool, target string) error {
	conn, err := pool.Get(target)
	if err != nil {
		return err
	}
	reply, err := shoppb.NewStockClient(conn).Reserve(ctx, &shoppb.ReserveRequest{Item: "boat", Quantity: 1})
	p.Stock, p.Reservation = reply.GetWorkload(), reply.GetReservation()
	return err
}

func (p *Placed) charge(ctx context.Context, pool *outbound.Pool, target string) error {
	conn, err := pool.Get(target)
	if err != nil {
		return err
	}
	reply, err := shoppb.NewPaymentsClient(conn).Charge(ctx, &shoppb.ChargeRequest{Order: p.Reservation, Cents: 990_000})
	p.Payments, p.Receipt = reply.GetWorkload(), reply.GetReceipt()
	return err
}

// unavailable answers 502 and names the service that failed, which the caller cannot know otherwise.
func unavailable(w http.ResponseWriter, service string, err error) {
	w.Header().Set("x-shop-failed", service)
	w.Header().Set("content-type", "application/json")
	w.WriteHeader(http.StatusBadGateway)
	_ = json.NewEncoder(w).Encode(map[string]string{"failed": service, "error": err.Error()})
}

// Payments is the payments service; FailPercent of its charges fail with FailCode.
type Payments struct {
	shoppb.UnimplementedPaymentsServer

	Echo        *echo.GRPC
	FailPercent float64
	FailCode    codes.Code
}

// Charge answers with a receipt, or fails as it is told to.
func (p *Payments) Charge(ctx context.Context, request *shoppb.ChargeRequest) (*shoppb.ChargeReply, error) {
	if err := p.Echo.Obey(ctx); err != nil {
		return nil, err
	}
	if rand.Float64()*100 < p.FailPercent {
		return nil, status.Error(p.FailCode, "the bank is closed (--fail-percent)")
	}
	return &shoppb.ChargeReply{
		Workload: p.Echo.Self.Workload, Receipt: "receipt-for-" + request.GetOrder(), Attempt: echo.AttemptGRPC(ctx),
	}, nil
}

// Stock is the stock service; it never runs out.
type Stock struct {
	shoppb.UnimplementedStockServer

	Echo *echo.GRPC
}

// left is how many of every item there are; what matters here is the call, not the goods.
const left = 42

// Check answers how many of an item are left.
func (s *Stock) Check(ctx context.Context, _ *shoppb.CheckRequest) (*shoppb.CheckReply, error) {
	if err := s.Echo.Obey(ctx); err != nil {
		return nil, err
	}
	return &shoppb.CheckReply{Workload: s.Echo.Self.Workload, Left: left}, nil
}

// Reserve answers with a reservation.
func (s *Stock) Reserve(ctx context.Context, request *shoppb.ReserveRequest) (*shoppb.ReserveReply, error) {
	if err := s.Echo.Obey(ctx); err != nil {
		return nil, err
	}
	reservation := fmt.Sprintf("%s-%08x", request.GetItem(), rand.Uint32())
	return &shoppb.ReserveReply{
		Workload: s.Echo.Self.Workload, Reservation: reservation, Attempt: echo.AttemptGRPC(ctx),
	}, nil
}
