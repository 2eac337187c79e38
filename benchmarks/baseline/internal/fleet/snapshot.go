package fleet

import (
	"cmp"
	"math"
	"slices"
	"time"
)

// Snapshot is the fleet's state, and what it has received since the last reset.
type Snapshot struct {
	Schema     string         `json:"schema"`
	Complete   bool           `json:"complete"` // of wait: whether what was waited for came
	Streams    int            `json:"streams"`
	Connected  int            `json:"connected"`
	Settled    int            `json:"settled"`
	Failed     int            `json:"failed"`
	Errors     map[string]int `json:"errors"`
	Started    float64        `json:"started"`
	ResetAt    float64        `json:"reset_at"`
	Reached    int            `json:"reached"` // streams with at least one response
	Responses  int            `json:"responses"`
	Resources  int            `json:"resources"`
	Removed    int            `json:"removed"`
	Bytes      int64          `json:"bytes"`
	Sequence   [2]uint32      `json:"sequence"` // lowest and highest newest change held
	Opened     Times          `json:"opened"`
	SettledAt  Times          `json:"settled_at"`
	Received   Times          `json:"received"`    // last response of each stream
	ReceivedMS Times          `json:"received_ms"` // the same, since the reset
	SettledMS  Times          `json:"settled_ms"`  // since the start
}

// Times are quantiles over streams: unix seconds, or milliseconds where the name says so.
type Times struct {
	First float64 `json:"first"`
	P50   float64 `json:"p50"`
	P99   float64 `json:"p99"`
	Last  float64 `json:"last"`
}

func unix(at time.Time) float64 { return float64(at.UnixMicro()) / 1e6 }

func unixTime(seconds float64) time.Time { return time.UnixMicro(int64(seconds * 1e6)) }

func quantiles(values []float64) Times {
	if len(values) == 0 {
		return Times{}
	}
	slices.Sort(values)
	return Times{First: values[0], P50: quantile(values, 0.5), P99: quantile(values, 0.99), Last: values[len(values)-1]}
}

// quantile returns the nearest-rank quantile of sorted values.
func quantile(sorted []float64, q float64) float64 {
	return sorted[max(int(math.Ceil(q*float64(len(sorted))))-1, 0)]
}

func (t Times) sinceMS(start time.Time) Times {
	if t.First == 0 {
		return t
	}
	ms := func(at float64) float64 { return math.Round((at-unix(start))*1e6) / 1e3 }
	return Times{First: ms(t.First), P50: ms(t.P50), P99: ms(t.P99), Last: ms(t.Last)}
}

// Snapshot returns the fleet's state now.
func (f *Fleet) Snapshot() Snapshot {
	s := Snapshot{
		Schema: "xdsload/1", Streams: len(f.proxies), Errors: map[string]int{},
		Started: unix(f.started), ResetAt: unix(f.resetAt), Sequence: [2]uint32{math.MaxUint32, 0},
	}
	var opened, settled, received []float64
	for _, p := range f.proxies {
		p.mu.Lock()
		if p.err != nil {
			s.Failed++
			s.Errors[p.err.Error()]++
		} else if !p.opened.IsZero() {
			s.Connected++
			opened = append(opened, unix(p.opened))
			if !p.settled.IsZero() {
				s.Settled++
				settled = append(settled, unix(p.settled))
			}
		}
		if p.seen.responses > 0 {
			s.Reached++
			received = append(received, unix(p.seen.last))
		}
		s.Responses += p.seen.responses
		s.Resources += p.seen.resources
		s.Removed += p.seen.removed
		s.Bytes += p.seen.bytes
		s.Sequence = [2]uint32{min(s.Sequence[0], p.sequence), max(s.Sequence[1], p.sequence)}
		p.mu.Unlock()
	}
	s.Opened, s.SettledAt, s.Received = quantiles(opened), quantiles(settled), quantiles(received)
	s.ReceivedMS, s.SettledMS = s.Received.sinceMS(f.resetAt), s.SettledAt.sinceMS(f.started)
	return s
}

// Change is one change of the server: its number and when it was made.
type Change struct {
	Sequence uint32
	At       time.Time
}

// Staleness is how long streams went without each change. N counts (change, stream) pairs that arrived, Missing
// those that never did; a change that a newer one overtook counts at the newer one's arrival.
type Staleness struct {
	Schema  string  `json:"schema"`
	N       int     `json:"n"`
	Missing int     `json:"missing"`
	P50MS   float64 `json:"p50_ms"`
	P99MS   float64 `json:"p99_ms"`
	MaxMS   float64 `json:"max_ms"`
	LastMS  float64 `json:"last_ms"` // from the last change to its last arrival
}

// Staleness returns the staleness of these changes over all streams since the last reset.
func (f *Fleet) Staleness(changes []Change) Staleness {
	changes = slices.Clone(changes)
	slices.SortFunc(changes, func(a, b Change) int { return cmp.Compare(a.Sequence, b.Sequence) })
	result := Staleness{Schema: "xdsload.staleness/1"}
	var values []float64
	for _, p := range f.proxies {
		p.mu.Lock()
		next := 0
		for i, change := range changes {
			for next < len(p.arrivals) && p.arrivals[next].sequence < change.Sequence {
				next++
			}
			if next == len(p.arrivals) {
				result.Missing += len(changes) - i
				break
			}
			ms := float64(p.arrivals[next].at.Sub(change.At).Microseconds()) / 1000
			values = append(values, ms)
			if i == len(changes)-1 {
				result.LastMS = max(result.LastMS, ms)
			}
		}
		p.mu.Unlock()
	}
	if result.N = len(values); result.N > 0 {
		slices.Sort(values)
		result.P50MS, result.P99MS, result.MaxMS = quantile(values, 0.5), quantile(values, 0.99), values[len(values)-1]
	}
	return result
}
