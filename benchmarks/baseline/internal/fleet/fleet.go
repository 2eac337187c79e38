// Package fleet is many xDS clients in one process: it opens their streams, acknowledges what they receive and
// says what arrived when. It never judges a configuration.
package fleet

import (
	"context"
	"fmt"
	"sync"
	"time"

	"proa.dev/benchmarks/baseline/internal/h2stream"
)

// Node is who a client says it is; Token is "" without authorisation.
type Node struct{ ID, Token string }

// Subscription is one type and its names; no names is the wildcard.
type Subscription struct {
	Type  string
	Names []string
}

// Options are what a fleet does.
type Options struct {
	Target         h2stream.Target
	Nodes          []Node
	Subscriptions  []Subscription
	Follow         bool   // subscribe to the endpoints of each cluster that arrives
	Remember       bool   // keep versions for Reconnect
	BasePort       uint32 // endpoint port BasePort + K is change K; 0: no sequence
	Watch          string // the resource whose sequence counts; "": any
	Parallel       int    // streams opening at once; 0: all
	ConnectTimeout time.Duration
}

// Fleet is the clients.
type Fleet struct {
	options Options
	proxies []*proxy

	stop    context.CancelFunc
	running sync.WaitGroup
	started time.Time
	resetAt time.Time

	internMu sync.Mutex
	interned map[string]string
}

// New returns a fleet that is not connected.
func New(options Options) *Fleet {
	f := &Fleet{options: options, interned: map[string]string{}, stop: func() {}}
	for _, node := range options.Nodes {
		f.proxies = append(f.proxies, &proxy{
			node: node, fleet: f, versions: map[string]map[string]string{}, answered: map[string]bool{},
			follows: map[string]bool{},
		})
	}
	return f
}

// intern returns one copy of a text that many proxies hold.
func (f *Fleet) intern(text string) string {
	f.internMu.Lock()
	defer f.internMu.Unlock()
	if kept, ok := f.interned[text]; ok {
		return kept
	}
	f.interned[text] = text
	return text
}

// Connect opens all streams and returns when each is settled or has failed, or after timeout.
func (f *Fleet) Connect(timeout time.Duration) Snapshot {
	ctx, cancel := context.WithCancel(context.Background())
	f.stop = cancel
	f.started, f.resetAt = time.Now(), time.Now()
	for _, p := range f.proxies {
		f.running.Add(1)
		go p.run(ctx, f.running.Done)
		if f.options.Parallel > 0 {
			f.awaitOpening(f.options.Parallel)
		}
	}
	return f.Wait(timeout, func(s Snapshot) bool { return s.Settled+s.Failed == s.Streams })
}

// awaitOpening returns when fewer than limit streams are neither settled nor failed.
func (f *Fleet) awaitOpening(limit int) {
	deadline := time.Now().Add(f.options.ConnectTimeout)
	for time.Now().Before(deadline) {
		opening := 0
		for _, p := range f.proxies {
			p.mu.Lock()
			if !p.opened.IsZero() && p.settled.IsZero() && p.err == nil {
				opening++
			}
			p.mu.Unlock()
		}
		if opening < limit {
			return
		}
		time.Sleep(poll)
	}
}

// poll is how often waiting looks; times come from the proxies, so that it costs no accuracy.
const poll = 5 * time.Millisecond

// Wait returns the first snapshot for which enough is true, or the last before timeout.
func (f *Fleet) Wait(timeout time.Duration, enough func(Snapshot) bool) Snapshot {
	deadline := time.Now().Add(timeout)
	for {
		snapshot := f.Snapshot()
		snapshot.Complete = enough(snapshot)
		if snapshot.Complete || time.Now().After(deadline) {
			return snapshot
		}
		time.Sleep(poll)
	}
}

// Close ends all streams.
func (f *Fleet) Close() {
	f.stop()
	f.running.Wait()
}

// Reconnect closes all streams and opens them again with the versions that they hold; it returns what arrived
// until nothing had for as long as quiet.
func (f *Fleet) Reconnect(timeout, quiet time.Duration) (Snapshot, error) {
	if !f.options.Remember {
		return Snapshot{}, fmt.Errorf("reconnect needs the versions: start with --remember")
	}
	f.Close()
	for _, p := range f.proxies {
		p.renew()
	}
	ctx, cancel := context.WithCancel(context.Background())
	f.stop = cancel
	f.started, f.resetAt = time.Now(), time.Now()
	for _, p := range f.proxies {
		f.running.Add(1)
		go p.run(ctx, f.running.Done)
	}
	return f.Wait(timeout, func(s Snapshot) bool {
		last := max(s.Received.Last, s.Opened.Last)
		return s.Connected+s.Failed == s.Streams && time.Since(unixTime(last)) > quiet
	}), nil
}

// Reset starts the counts and times of Snapshot anew; streams and sequences stay.
func (f *Fleet) Reset() {
	f.resetAt = time.Now()
	for _, p := range f.proxies {
		p.mu.Lock()
		p.seen = tally{}
		p.arrivals = nil
		p.mu.Unlock()
	}
}
