package load

import (
	"math/bits"
	"sync"
	"time"
)

// histogram counts latencies in microseconds in buckets of 1/64 relative width (an error of at most 1.6 %), so
// that a run of any length costs the same memory.
type histogram struct {
	counts [64 * 40]uint64
	total  uint64
	sumUS  uint64
	maxUS  uint64
}

const subBuckets = 64

func (h *histogram) add(us uint64) {
	h.counts[min(bucket(us), len(h.counts)-1)]++
	h.total++
	h.sumUS += us
	h.maxUS = max(h.maxUS, us)
}

func bucket(us uint64) int {
	if us < subBuckets {
		return int(us)
	}
	shift := bits.Len64(us) - 7
	return (shift+1)*subBuckets + int(us>>shift) - subBuckets
}

// upper returns the largest value of a bucket.
func upper(index int) uint64 {
	if index < subBuckets {
		return uint64(index)
	}
	shift := index/subBuckets - 1
	return (uint64(index%subBuckets+subBuckets)+1)<<shift - 1
}

func (h *histogram) quantileMS(q float64) float64 {
	if h.total == 0 {
		return 0
	}
	rank := min(uint64(q*float64(h.total))+1, h.total)
	var seen uint64
	for i, count := range h.counts {
		if seen += count; seen >= rank {
			return float64(min(upper(i), h.maxUS)) / 1000
		}
	}
	return float64(h.maxUS) / 1000
}

// Latency is a distribution in milliseconds, over answered requests.
type Latency struct {
	Mean float64 `json:"mean"`
	P50  float64 `json:"p50"`
	P90  float64 `json:"p90"`
	P99  float64 `json:"p99"`
	P999 float64 `json:"p999"`
	Max  float64 `json:"max"`
}

func (h *histogram) latency() Latency {
	mean := 0.0
	if h.total > 0 {
		mean = float64(h.sumUS/h.total) / 1000
	}
	return Latency{
		Mean: mean, P50: h.quantileMS(0.5), P90: h.quantileMS(0.9), P99: h.quantileMS(0.99),
		P999: h.quantileMS(0.999), Max: float64(h.maxUS) / 1000,
	}
}

// Report is one line of output: type is "second" (what happened in it, in flight at its end) or "final" (the
// whole run, where sent = ok + failed).
type Report struct {
	Type        string         `json:"type"`
	Schema      string         `json:"schema"`
	At          float64        `json:"at"`
	Seconds     float64        `json:"seconds"`
	Sent        int            `json:"sent"`
	OK          int            `json:"ok"`
	Failed      int            `json:"failed"`
	InFlight    int            `json:"in_flight"`
	Skipped     int            `json:"skipped"`
	Reasons     map[string]int `json:"reasons"`
	ByWorkload  map[string]int `json:"by_workload"`
	ByOrders    map[string]int `json:"by_orders"`
	ByStatus    map[string]int `json:"by_status"`
	LatencyMS   Latency        `json:"latency_ms"`
	FirstErrors []Failure      `json:"first_errors,omitempty"`
}

// Failure is one failed request in its own words.
type Failure struct {
	At     float64 `json:"at"`
	Reason string  `json:"reason"`
	Detail string  `json:"detail"`
}

// keptFailures bounds first_errors: the first of them tell the story.
const keptFailures = 10

// outcome is how one request ended.
type outcome struct {
	status   string
	workload string
	orders   string
	reason   string // "" when the request succeeded
	detail   string
	took     time.Duration
}

// tally counts outcomes between two reports.
type tally struct {
	sent, ok, failed, skipped               int
	reasons, byWorkload, byOrders, byStatus map[string]int
	latency                                 histogram
	failures                                []Failure
}

func newTally() *tally {
	return &tally{
		reasons: map[string]int{}, byWorkload: map[string]int{}, byOrders: map[string]int{}, byStatus: map[string]int{},
	}
}

func (t *tally) add(o outcome, at time.Time) {
	if o.reason == "" {
		t.ok++
	} else {
		t.failed++
		t.reasons[o.reason]++
		if len(t.failures) < keptFailures {
			t.failures = append(t.failures, Failure{At: unix(at), Reason: o.reason, Detail: o.detail})
		}
	}
	count(t.byStatus, o.status)
	count(t.byWorkload, o.workload)
	count(t.byOrders, o.orders)
	if o.status != "" {
		t.latency.add(uint64(o.took.Microseconds()))
	}
}

func count(counts map[string]int, key string) {
	if key != "" {
		counts[key]++
	}
}

func unix(at time.Time) float64 { return float64(at.UnixMicro()) / 1e6 }

func (t *tally) report(kind string, at time.Time, lasted time.Duration, inFlight int) Report {
	return Report{
		Type: kind, Schema: "shop.load/1", At: unix(at), Seconds: lasted.Seconds(),
		Sent: t.sent, OK: t.ok, Failed: t.failed, InFlight: inFlight, Skipped: t.skipped,
		Reasons: t.reasons, ByWorkload: t.byWorkload, ByOrders: t.byOrders, ByStatus: t.byStatus,
		LatencyMS: t.latency.latency(), FirstErrors: t.failures,
	}
}

// counter is the run's total and the current second, behind one lock.
type counter struct {
	mu       sync.Mutex
	inFlight int
	whole    *tally
	second   *tally
}

func newCounter() *counter { return &counter{whole: newTally(), second: newTally()} }

func (c *counter) sent() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.inFlight++
	c.whole.sent++
	c.second.sent++
}

func (c *counter) skipped() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.whole.skipped++
	c.second.skipped++
}

func (c *counter) ended(o outcome, at time.Time) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.inFlight--
	c.whole.add(o, at)
	c.second.add(o, at)
}

// takeSecond returns the report of the current second and starts the next.
func (c *counter) takeSecond(at time.Time, lasted time.Duration) Report {
	c.mu.Lock()
	defer c.mu.Unlock()
	report := c.second.report("second", at, lasted, c.inFlight)
	c.second = newTally()
	return report
}

func (c *counter) final(at time.Time, lasted time.Duration) Report {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.whole.report("final", at, lasted, c.inFlight)
}
