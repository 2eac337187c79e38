// Command adsserver is the grpc-go side of the fan-out benchmark: see README.md.
package main

import (
	"crypto/tls"
	"encoding/json"
	"flag"
	"fmt"
	"net"
	"net/http"
	"os"
	"strconv"
	"syscall"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"

	"proa.dev/benchmarks/baseline/internal/server"
)

// pushed is the answer of POST /push.
type pushed struct {
	Schema       string       `json:"schema"`
	Changes      [][2]float64 `json:"changes"` // number of the change, unix seconds
	Streams      int          `json:"streams"`
	Pushes       int64        `json:"pushes"`
	CPUSeconds   float64      `json:"cpu_seconds"`
	CPUUSPerPush float64      `json:"cpu_us_per_push"`
	WallMS       float64      `json:"wall_ms"`
}

func main() {
	listen := flag.String("listen", "127.0.0.1:0", "xDS address")
	control := flag.String("control", "127.0.0.1:0", "HTTP address of /push and /stats")
	cert := flag.String("cert", "", "TLS certificate file (PEM); without it plaintext")
	key := flag.String("key", "", "TLS key file (PEM)")
	resource := flag.String("resource", "bench", "name of the ClusterLoadAssignment")
	endpoints := flag.Int("endpoints", 10, "endpoints in it")
	basePort := flag.Uint("base-port", 10_000, "change K is the endpoint port base-port + K")
	flag.Parse()
	if err := run(*listen, *control, *cert, *key, server.New(*resource, *endpoints, uint32(*basePort))); err != nil {
		fmt.Fprintf(os.Stderr, "adsserver: %s\n", err)
		os.Exit(1)
	}
}

func run(listen, control, cert, key string, fanout *server.Server) error {
	options := []grpc.ServerOption{grpc.ForceServerCodecV2(server.Codec{})}
	if cert != "" {
		pair, err := tls.LoadX509KeyPair(cert, key)
		if err != nil {
			return err
		}
		config := &tls.Config{Certificates: []tls.Certificate{pair}, MinVersion: tls.VersionTLS13}
		options = append(options, grpc.Creds(credentials.NewTLS(config)))
	}
	xds, err := net.Listen("tcp", listen)
	if err != nil {
		return err
	}
	commands, err := net.Listen("tcp", control)
	if err != nil {
		return err
	}
	registrar := grpc.NewServer(options...)
	fanout.Register(registrar)
	http.HandleFunc("POST /push", func(w http.ResponseWriter, r *http.Request) { push(w, r, fanout) })
	http.HandleFunc("GET /stats", func(w http.ResponseWriter, _ *http.Request) {
		_ = json.NewEncoder(w).Encode(struct {
			server.Counts
			CPUSeconds float64 `json:"cpu_seconds"`
			MaxRSSKiB  int64   `json:"max_rss_kib"`
		}{fanout.Counts(), cpuSeconds(), maxRSS()})
	})
	go func() { _ = http.Serve(commands, nil) }()
	_ = json.NewEncoder(os.Stdout).Encode(map[string]any{
		"event": "listening", "xds": xds.Addr().String(), "control": commands.Addr().String(), "pid": os.Getpid(),
	})
	return registrar.Serve(xds)
}

// push makes count changes, interval_ms apart, waits for every ACK and answers what they cost.
func push(w http.ResponseWriter, r *http.Request, fanout *server.Server) {
	count, err := strconv.Atoi(r.FormValue("count"))
	if r.FormValue("count") == "" {
		count, err = 1, nil
	}
	interval, intervalErr := strconv.Atoi("0" + r.FormValue("interval_ms"))
	if err != nil || intervalErr != nil || count < 1 {
		http.Error(w, "count and interval_ms must be counts", http.StatusBadRequest)
		return
	}
	answer := pushed{Schema: "baseline.push/1"}
	fanout.AwaitAcks(fanout.Counts().Pushes) // what was sent before is not part of this
	before, cpu, start := fanout.Counts(), cpuSeconds(), time.Now()
	for i := range count {
		time.Sleep(time.Until(start.Add(time.Duration(i*interval) * time.Millisecond)))
		at := float64(time.Now().UnixMicro()) / 1e6
		answer.Streams = fanout.Change()
		answer.Changes = append(answer.Changes, [2]float64{float64(before.Changes) + float64(i+1), at})
	}
	fanout.AwaitAcks(fanout.Counts().Pushes)
	answer.WallMS = float64(time.Since(start).Microseconds()) / 1000
	answer.CPUSeconds = cpuSeconds() - cpu
	answer.Pushes = fanout.Counts().Pushes - before.Pushes
	if answer.Pushes > 0 {
		answer.CPUUSPerPush = answer.CPUSeconds * 1e6 / float64(answer.Pushes)
	}
	_ = json.NewEncoder(w).Encode(answer)
}

// cpuSeconds returns the user and system time of this process.
func cpuSeconds() float64 {
	var usage syscall.Rusage
	_ = syscall.Getrusage(syscall.RUSAGE_SELF, &usage)
	return seconds(usage.Utime) + seconds(usage.Stime)
}

func seconds(t syscall.Timeval) float64 { return float64(t.Sec) + float64(t.Usec)/1e6 }

func maxRSS() int64 {
	var usage syscall.Rusage
	_ = syscall.Getrusage(syscall.RUSAGE_SELF, &usage)
	return usage.Maxrss
}
