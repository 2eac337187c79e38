// Package wire reads and writes the few fields of delta xDS messages that a benchmark needs, straight from and
// to protobuf's wire format. It never keeps a message or checks more of it than it uses.
package wire

import (
	"errors"
	"fmt"

	"google.golang.org/protobuf/encoding/protowire"
)

// DeltaMethod is the delta stream of the aggregated discovery service.
const DeltaMethod = "/envoy.service.discovery.v3.AggregatedDiscoveryService/DeltaAggregatedResources"

// Types are the type URLs by the names that the xDS documents use for them.
var Types = map[string]string{
	"cds": "type.googleapis.com/envoy.config.cluster.v3.Cluster",
	"eds": "type.googleapis.com/envoy.config.endpoint.v3.ClusterLoadAssignment",
	"lds": "type.googleapis.com/envoy.config.listener.v3.Listener",
	"rds": "type.googleapis.com/envoy.config.route.v3.RouteConfiguration",
	"sds": "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.Secret",
}

// Request is a DeltaDiscoveryRequest.
type Request struct {
	NodeID          string // "" after the first message of a stream
	Type            string
	Subscribe       []string
	InitialVersions map[string]string
	Nonce           string
}

// The node of a request says that it is this Envoy, so that a server gates nothing away.
const (
	userAgent      = "envoy"
	userAgentMajor = 1
	userAgentMinor = 40
)

// Append appends the request's encoding.
func (r Request) Append(b []byte) []byte {
	if r.NodeID != "" {
		b = appendBytes(b, 1, node(r.NodeID))
	}
	b = appendString(b, 2, r.Type)
	for _, name := range r.Subscribe {
		b = appendString(b, 3, name)
	}
	for name, version := range r.InitialVersions {
		b = appendBytes(b, 5, appendString(appendString(nil, 1, name), 2, version))
	}
	if r.Nonce != "" {
		b = appendString(b, 6, r.Nonce)
	}
	return b
}

func node(id string) []byte {
	version := appendVarint(appendVarint(nil, 1, userAgentMajor), 2, userAgentMinor)
	b := appendString(nil, 1, id)
	b = appendString(b, 6, userAgent)
	return appendBytes(b, 8, appendBytes(nil, 1, version))
}

// Resource is one resource of a response; Body aliases the response's bytes.
type Resource struct {
	Name    string
	Version string
	Body    []byte // the Any's value
}

// Response is a DeltaDiscoveryResponse.
type Response struct {
	Type      string
	Nonce     string
	Resources []Resource
	Removed   int
}

var errTruncated = errors.New("truncated protobuf")

// each calls visit for every field of a message; length-delimited values only.
func each(b []byte, visit func(number protowire.Number, value []byte) error) error {
	for len(b) > 0 {
		number, kind, n := protowire.ConsumeTag(b)
		if n < 0 {
			return errTruncated
		}
		b = b[n:]
		if kind == protowire.BytesType {
			value, n := protowire.ConsumeBytes(b)
			if n < 0 {
				return errTruncated
			}
			if err := visit(number, value); err != nil {
				return err
			}
			b = b[n:]
			continue
		}
		if n = protowire.ConsumeFieldValue(number, kind, b); n < 0 {
			return errTruncated
		}
		b = b[n:]
	}
	return nil
}

// ReadResponse returns what a response says.
func ReadResponse(b []byte) (Response, error) {
	var response Response
	err := each(b, func(number protowire.Number, value []byte) error {
		switch number {
		case 2:
			resource, err := readResource(value)
			response.Resources = append(response.Resources, resource)
			return err
		case 4:
			response.Type = string(value)
		case 5:
			response.Nonce = string(value)
		case 6:
			response.Removed++
		}
		return nil
	})
	return response, err
}

func readResource(b []byte) (Resource, error) {
	var resource Resource
	err := each(b, func(number protowire.Number, value []byte) error {
		switch number {
		case 1:
			resource.Version = string(value)
		case 2:
			return each(value, func(number protowire.Number, value []byte) error {
				if number == 2 {
					resource.Body = value
				}
				return nil
			})
		case 3:
			resource.Name = string(value)
		}
		return nil
	})
	return resource, err
}

// ReadRequest returns what a request says; InitialVersions stays empty.
func ReadRequest(b []byte) (Request, error) {
	var request Request
	err := each(b, func(number protowire.Number, value []byte) error {
		switch number {
		case 2:
			request.Type = string(value)
		case 3:
			request.Subscribe = append(request.Subscribe, string(value))
		case 6:
			request.Nonce = string(value)
		case 7:
			return fmt.Errorf("NACK: %q", value)
		}
		return nil
	})
	return request, err
}

// AppendResponse appends a response of one resource.
func AppendResponse(b []byte, typeURL, nonce string, resource Resource) []byte {
	anyBytes := appendBytes(appendString(nil, 1, typeURL), 2, resource.Body)
	framed := appendString(nil, 1, resource.Version)
	framed = appendBytes(framed, 2, anyBytes)
	framed = appendString(framed, 3, resource.Name)
	b = appendBytes(b, 2, framed)
	b = appendString(b, 4, typeURL)
	return appendString(b, 5, nonce)
}

// LoadAssignment returns a ClusterLoadAssignment of one locality with endpoints at address and these ports.
func LoadAssignment(cluster, address string, ports []uint32) []byte {
	var locality []byte
	for _, port := range ports {
		socket := appendVarint(appendString(nil, 2, address), 3, uint64(port))
		endpoint := appendBytes(nil, 1, appendBytes(nil, 1, socket))
		locality = appendBytes(locality, 2, appendBytes(nil, 1, endpoint))
	}
	locality = appendBytes(locality, 3, appendVarint(nil, 1, 1))
	return appendBytes(appendString(nil, 1, cluster), 2, locality)
}

// MaxPort returns the highest port of a ClusterLoadAssignment, 0 if it has no endpoint.
func MaxPort(b []byte) (uint32, error) {
	var highest uint32
	// ClusterLoadAssignment.endpoints → lb_endpoints → endpoint → address → socket_address
	path := []protowire.Number{2, 2, 1, 1, 1}
	var walk func(b []byte, depth int) error
	walk = func(b []byte, depth int) error {
		if depth == len(path) {
			port, err := socketPort(b)
			highest = max(highest, port)
			return err
		}
		return each(b, func(number protowire.Number, value []byte) error {
			if number == path[depth] {
				return walk(value, depth+1)
			}
			return nil
		})
	}
	return highest, walk(b, 0)
}

// socketPort returns port_value (field 3) of a SocketAddress.
func socketPort(b []byte) (uint32, error) {
	for len(b) > 0 {
		number, kind, n := protowire.ConsumeTag(b)
		if n < 0 {
			return 0, errTruncated
		}
		b = b[n:]
		if number == 3 && kind == protowire.VarintType {
			port, n := protowire.ConsumeVarint(b)
			if n < 0 {
				return 0, errTruncated
			}
			return uint32(port), nil
		}
		if n = protowire.ConsumeFieldValue(number, kind, b); n < 0 {
			return 0, errTruncated
		}
		b = b[n:]
	}
	return 0, nil
}

func appendBytes(b []byte, number protowire.Number, value []byte) []byte {
	return protowire.AppendBytes(protowire.AppendTag(b, number, protowire.BytesType), value)
}

func appendString(b []byte, number protowire.Number, value string) []byte {
	return protowire.AppendString(protowire.AppendTag(b, number, protowire.BytesType), value)
}

func appendVarint(b []byte, number protowire.Number, value uint64) []byte {
	return protowire.AppendVarint(protowire.AppendTag(b, number, protowire.VarintType), value)
}
