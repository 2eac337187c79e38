package trace

import (
	"context"
	"net/http"
	"reflect"
	"testing"

	"google.golang.org/grpc/metadata"
)

// incoming is a request with every trace header, baggage on two lines, and one header that is none.
func incoming() http.Header {
	header := http.Header{}
	for _, name := range Names {
		header.Add(name, "value of "+name)
	}
	header.Add("baggage", "second=line")
	header.Add("authorization", "Bearer secret")
	return header
}

// Every trace header is copied with all its lines, and nothing else is.
func TestHTTPCopiesEveryTraceHeaderAndNothingElse(t *testing.T) {
	out := http.Header{}
	FromHTTP(incoming()).ToHTTP(out)

	want := incoming()
	want.Del("authorization")
	if !reflect.DeepEqual(out, want) {
		t.Errorf("got %v, want %v", out, want)
	}
	if lines := out.Values("baggage"); len(lines) != 2 {
		t.Errorf("baggage: got %q, want both lines", lines)
	}
}

// The headers of an HTTP request reach a gRPC call, and from there the next HTTP request.
func TestHeadersPassFromHTTPToGRPCAndBack(t *testing.T) {
	ctx := FromHTTP(incoming()).ToGRPC(context.Background())
	sent, _ := metadata.FromOutgoingContext(ctx)
	out := http.Header{}
	FromGRPC(metadata.NewIncomingContext(context.Background(), sent)).ToHTTP(out)

	want := incoming()
	want.Del("authorization")
	if !reflect.DeepEqual(out, want) {
		t.Errorf("got %v, want %v", out, want)
	}
}

// A header that the outgoing request already has is not overwritten.
func TestHeaderOfTheOutgoingRequestStays(t *testing.T) {
	out := http.Header{"X-Request-Id": {"mine"}}
	FromHTTP(incoming()).ToHTTP(out)

	if got := out.Values("x-request-id"); !reflect.DeepEqual(got, []string{"mine"}) {
		t.Errorf("got %q, want mine", got)
	}
}

// Metadata that the outgoing call already has stays, whichever it is.
func TestMetadataOfTheOutgoingCallStays(t *testing.T) {
	ctx := metadata.AppendToOutgoingContext(context.Background(), "x-request-id", "mine", "other", "kept")
	sent, _ := metadata.FromOutgoingContext(FromHTTP(incoming()).ToGRPC(ctx))

	if id, other := sent.Get("x-request-id"), sent.Get("other"); len(id) != 1 || id[0] != "mine" || len(other) != 1 {
		t.Errorf("got %q and %q", id, other)
	}
}
