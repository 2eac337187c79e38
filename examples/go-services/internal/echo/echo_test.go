package echo

import (
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"syscall"
	"testing"
	"time"
)

func start(t *testing.T) *httptest.Server {
	t.Helper()
	self := Self{Workload: "orders-v2", Version: "v2"}
	server := httptest.NewServer(Steered(self, Handler(self)))
	t.Cleanup(server.Close)
	return server
}

func get(t *testing.T, server *httptest.Server, headers ...string) *http.Response {
	t.Helper()
	request, err := http.NewRequest(http.MethodPost, server.URL+"/echo/x?q=1", strings.NewReader("four"))
	if err != nil {
		t.Fatal(err)
	}
	for i := 0; i < len(headers); i += 2 {
		request.Header.Add(headers[i], headers[i+1])
	}
	response, err := server.Client().Do(request)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = response.Body.Close() })
	return response
}

// The answer says who served and what arrived, every header line included.
func TestEchoSaysWhoServedAndWhatArrived(t *testing.T) {
	response := get(t, start(t), "x-envoy-attempt-count", "3", "baggage", "a=1", "baggage", "b=2")
	var reply Reply
	if err := json.NewDecoder(response.Body).Decode(&reply); err != nil {
		t.Fatal(err)
	}

	if reply.Workload != "orders-v2" || reply.Version != "v2" || reply.Method != "POST" || reply.Path != "/echo/x" ||
		reply.Query != "q=1" || reply.Attempt != 3 || reply.BodyBytes != 4 || reply.Proto != "HTTP/1.1" {
		t.Errorf("got %+v", reply)
	}
	if len(reply.Headers["baggage"]) != 2 {
		t.Errorf("baggage: got %q", reply.Headers["baggage"])
	}
	if got := response.Header.Get("x-shop-workload"); got != "orders-v2" {
		t.Errorf("x-shop-workload: got %q", got)
	}
}

// The first attempts of a request id fail, the next succeeds; another request id starts anew.
func TestFailFirstCountsTheAttemptsOfARequestID(t *testing.T) {
	server := start(t)
	var got []int
	for _, id := range []string{"a", "a", "a", "b"} {
		got = append(got, get(t, server, "x-shop-fail-first", "2", "x-request-id", id).StatusCode)
	}

	if want := [4]int{503, 503, 200, 503}; [4]int(got) != want {
		t.Errorf("got %v, want %v", got, want)
	}
}

// A delay postpones the answer by at least itself.
func TestDelayPostponesTheAnswer(t *testing.T) {
	server := start(t)
	began := time.Now()
	response := get(t, server, "x-shop-delay", "80ms")

	if took := time.Since(began); response.StatusCode != http.StatusOK || took < 80*time.Millisecond {
		t.Errorf("got %d after %s", response.StatusCode, took)
	}
}

// A status that is asked for is answered, and a bad order is refused with its reason.
func TestStatusIsAnsweredAndBadOrdersAreRefused(t *testing.T) {
	server := start(t)
	asked := get(t, server, "x-shop-status", "418")
	bad := get(t, server, "x-shop-delay", "soon")
	reason, _ := io.ReadAll(bad.Body)

	if asked.StatusCode != http.StatusTeapot || bad.StatusCode != http.StatusBadRequest {
		t.Errorf("got %d and %d", asked.StatusCode, bad.StatusCode)
	}
	if !strings.Contains(string(reason), "x-shop-delay") {
		t.Errorf("reason: got %q", reason)
	}
}

// A reset closes the connection without an answer.
func TestResetClosesTheConnection(t *testing.T) {
	server := start(t)
	request, err := http.NewRequest(http.MethodPost, server.URL, nil)
	if err != nil {
		t.Fatal(err)
	}
	request.Header.Set("x-shop-reset", "true")
	response, err := server.Client().Do(request)
	if err == nil {
		_ = response.Body.Close()
		t.Fatalf("got an answer: %d", response.StatusCode)
	}

	if !errors.Is(err, syscall.ECONNRESET) && !errors.Is(err, io.EOF) {
		t.Errorf("got %v, want a reset", err)
	}
}
