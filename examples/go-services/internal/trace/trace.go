// Package trace copies the headers that tie the spans of one request together; it never creates or reads them.
//
// This is all that a mesh asks of an application: the sidecar starts the spans, but only the application
// knows which of its calls belongs to which request.
package trace

import (
	"context"
	"net/http"
	"strings"

	"google.golang.org/grpc/metadata"
)

// Names are the copied headers in lower case: W3C Trace Context and Baggage, Envoy's request id, and B3 in its
// single-header and multi-header forms.
var Names = []string{
	"x-request-id",
	"traceparent",
	"tracestate",
	"baggage",
	"b3",
	"x-b3-traceid",
	"x-b3-spanid",
	"x-b3-parentspanid",
	"x-b3-sampled",
	"x-b3-flags",
}

// Headers are the trace headers of one request by lower-case name. A header sent on several lines keeps its
// lines and their order: baggage and tracestate may be split that way.
type Headers map[string][]string

// FromHTTP returns the trace headers of an HTTP request.
func FromHTTP(header http.Header) Headers {
	found := Headers{}
	for _, name := range Names {
		if lines := header.Values(name); len(lines) > 0 {
			found[name] = append([]string(nil), lines...)
		}
	}
	return found
}

// FromGRPC returns the trace headers of the gRPC call that ctx serves.
func FromGRPC(ctx context.Context) Headers {
	incoming, _ := metadata.FromIncomingContext(ctx)
	found := Headers{}
	for _, name := range Names {
		if lines := incoming.Get(name); len(lines) > 0 {
			found[name] = lines
		}
	}
	return found
}

// ToHTTP puts the headers on an outgoing HTTP request; a name that the request already has stays as it is.
func (h Headers) ToHTTP(header http.Header) {
	for name, lines := range h {
		if len(header.Values(name)) > 0 {
			continue
		}
		for _, line := range lines {
			header.Add(name, line)
		}
	}
}

// ToGRPC returns a context whose outgoing gRPC call carries the headers.
func (h Headers) ToGRPC(ctx context.Context) context.Context {
	outgoing, _ := metadata.FromOutgoingContext(ctx)
	outgoing = outgoing.Copy()
	for name, lines := range h {
		if len(outgoing.Get(name)) == 0 {
			outgoing.Set(strings.ToLower(name), lines...)
		}
	}
	return metadata.NewOutgoingContext(ctx, outgoing)
}
