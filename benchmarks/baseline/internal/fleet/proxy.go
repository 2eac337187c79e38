package fleet

import (
	"context"
	"errors"
	"fmt"
	"net"
	"slices"
	"sync"
	"time"

	"proa.dev/benchmarks/baseline/internal/h2stream"
	"proa.dev/benchmarks/baseline/internal/wire"
)

// arrival is the first time that a proxy held change number sequence.
type arrival struct {
	sequence uint32
	at       time.Time
}

// proxy is one client: one connection, one delta stream, everything acknowledged.
type proxy struct {
	node  Node
	fleet *Fleet

	mu       sync.Mutex
	stream   *h2stream.Stream
	err      error
	versions map[string]map[string]string // by type and name, only with Options.Remember
	followed []string                     // EDS names that came from CDS
	follows  map[string]bool              // the same
	answered map[string]bool              // types that have answered on this stream
	opened   time.Time
	settled  time.Time // every subscription has answered once
	sequence uint32    // the newest change held
	arrivals []arrival
	seen     tally
}

// tally is what a proxy has received since the last reset.
type tally struct {
	responses, resources, removed int
	bytes                         int64
	first, last                   time.Time
}

// run opens the stream, subscribes and acknowledges until the stream ends. done is called when it has.
func (p *proxy) run(ctx context.Context, done func()) {
	defer done()
	err := p.open(ctx)
	for err == nil {
		err = p.step()
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.stream != nil {
		p.stream.Close()
	}
	if ctx.Err() == nil {
		p.err = reason(err)
	}
}

// reason drops the addresses from a network error, so that equal causes count together.
func reason(err error) error {
	var network *net.OpError
	if errors.As(err, &network) {
		return fmt.Errorf("%s: %w", network.Op, network.Err)
	}
	return err
}

func (p *proxy) open(ctx context.Context) error {
	var metadata [][2]string
	if p.node.Token != "" {
		metadata = append(metadata, [2]string{"authorization", "Bearer " + p.node.Token})
	}
	limited, cancel := context.WithTimeout(ctx, p.fleet.options.ConnectTimeout)
	defer cancel()
	stream, err := h2stream.Open(limited, p.fleet.options.Target, metadata)
	if err != nil {
		return err
	}
	context.AfterFunc(ctx, stream.Close)
	p.mu.Lock()
	p.stream, p.opened = stream, time.Now()
	requests := p.requests()
	p.mu.Unlock()
	for _, request := range requests {
		if err := stream.Send(request.Append(nil)); err != nil {
			return err
		}
	}
	return nil
}

// requests returns the first request of each subscription; p.mu is held. The node is on the first message only.
func (p *proxy) requests() []wire.Request {
	subscriptions := slices.Clone(p.fleet.options.Subscriptions)
	if len(p.followed) > 0 {
		subscriptions = append(subscriptions, Subscription{Type: wire.Types["eds"], Names: p.followed})
	}
	requests := make([]wire.Request, 0, len(subscriptions))
	for i, subscription := range subscriptions {
		request := wire.Request{
			Type: subscription.Type, Subscribe: subscription.Names, InitialVersions: p.versions[subscription.Type],
		}
		if i == 0 {
			request.NodeID = p.node.ID
		}
		requests = append(requests, request)
	}
	return requests
}

// step receives one response, counts it and acknowledges it.
func (p *proxy) step() error {
	message, err := p.stream.Receive()
	if err != nil {
		return err
	}
	at := time.Now()
	response, err := wire.ReadResponse(message)
	if err != nil {
		return fmt.Errorf("response of %d bytes: %w", len(message), err)
	}
	ack := wire.Request{Type: response.Type, Nonce: response.Nonce}
	if err := p.stream.Send(ack.Append(nil)); err != nil {
		return err
	}
	followed, err := p.record(response, len(message), at)
	if err != nil || len(followed) == 0 {
		return err
	}
	subscribe := wire.Request{Type: wire.Types["eds"], Subscribe: followed}
	return p.stream.Send(subscribe.Append(nil))
}

// record counts a response and returns the EDS names that it adds.
func (p *proxy) record(response wire.Response, size int, at time.Time) ([]string, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.seen.responses++
	p.seen.resources += len(response.Resources)
	p.seen.removed += response.Removed
	p.seen.bytes += int64(size)
	if p.seen.first.IsZero() {
		p.seen.first = at
	}
	p.seen.last = at
	p.answered[response.Type] = true
	var followed []string
	for _, resource := range response.Resources {
		if p.fleet.options.Remember {
			p.remember(response.Type, resource)
		}
		switch response.Type {
		case wire.Types["eds"]:
			if err := p.recordSequence(resource, at); err != nil {
				return nil, err
			}
		case wire.Types["cds"]:
			if p.fleet.options.Follow && !p.follows[resource.Name] {
				name := p.fleet.intern(resource.Name)
				p.follows[name] = true
				p.followed = append(p.followed, name)
				followed = append(followed, name)
			}
		}
	}
	if p.settled.IsZero() && p.complete() {
		p.settled = at
	}
	return followed, nil
}

func (p *proxy) remember(typeURL string, resource wire.Resource) {
	if p.versions[typeURL] == nil {
		p.versions[typeURL] = map[string]string{}
	}
	p.versions[typeURL][p.fleet.intern(resource.Name)] = p.fleet.intern(resource.Version)
}

// recordSequence keeps the first time of each newer change.
func (p *proxy) recordSequence(resource wire.Resource, at time.Time) error {
	if p.fleet.options.BasePort == 0 || (p.fleet.options.Watch != "" && resource.Name != p.fleet.options.Watch) {
		return nil
	}
	port, err := wire.MaxPort(resource.Body)
	if err != nil {
		return fmt.Errorf("resource %s: %w", resource.Name, err)
	}
	if port < p.fleet.options.BasePort {
		return nil
	}
	if sequence := port - p.fleet.options.BasePort; sequence > p.sequence {
		p.sequence = sequence
		p.arrivals = append(p.arrivals, arrival{sequence, at})
	}
	return nil
}

// complete says whether every subscription has answered; p.mu is held.
func (p *proxy) complete() bool {
	for _, subscription := range p.fleet.options.Subscriptions {
		if !p.answered[subscription.Type] {
			return false
		}
	}
	return len(p.followed) == 0 || p.answered[wire.Types["eds"]]
}

// renew forgets the last stream but not what it received.
func (p *proxy) renew() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.stream, p.err = nil, nil
	p.answered = map[string]bool{}
	p.opened, p.settled = time.Time{}, time.Time{}
	p.seen = tally{}
}
