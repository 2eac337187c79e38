// Command probed is an application whose probes and hooks a test breaks and mends one by one.
//
//	probed serve          /ready and /alive in TLS on :8443 (a certificate of its own, made at the start), connections
//	                      on :9000, and /hook in plaintext on :8080
//	probed break NAME     from now on ready, alive, tcp or cmd fails
//	probed mend NAME
//	probed ask NAME       exit code 0 while NAME is well; the number of hooks that came for "hooks", on stdout
package main

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"io"
	"log"
	"math/big"
	"net"
	"net/http"
	"os"
	"os/signal"
	"sync"
	"sync/atomic"
	"syscall"
	"time"
)

const control = "127.0.0.1:8081"

func main() {
	switch {
	case len(os.Args) == 2 && os.Args[1] == "serve":
		serve()
	case len(os.Args) == 3:
		os.Exit(tell(os.Args[1], os.Args[2]))
	default:
		log.Fatal("usage: probed serve | break NAME | mend NAME | ask NAME")
	}
}

// tell sends a word to the server in this container and returns the exit code.
func tell(verb, name string) int {
	answer, err := http.Get("http://" + control + "/" + verb + "?name=" + name)
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	defer answer.Body.Close()
	_, _ = io.Copy(os.Stdout, answer.Body)
	if answer.StatusCode != http.StatusOK {
		return 1
	}
	return 0
}

type state struct {
	mutex    sync.Mutex
	broken   map[string]bool
	listener net.Listener
	hooks    atomic.Int64
}

func (s *state) isBroken(name string) bool {
	s.mutex.Lock()
	defer s.mutex.Unlock()
	return s.broken[name]
}

// set breaks or mends; a broken tcp has no listener.
func (s *state) set(name string, broken bool) {
	s.mutex.Lock()
	defer s.mutex.Unlock()
	s.broken[name] = broken
	if name != "tcp" {
		return
	}
	if broken && s.listener != nil {
		_ = s.listener.Close()
		s.listener = nil
	} else if !broken && s.listener == nil {
		listener, err := net.Listen("tcp", ":9000")
		if err != nil {
			log.Fatal(err)
		}
		s.listener = listener
		go accept(listener)
	}
}

func accept(listener net.Listener) {
	for {
		connection, err := listener.Accept()
		if err != nil {
			return
		}
		_ = connection.Close()
	}
}

func (s *state) answer(w http.ResponseWriter, name string) {
	if s.isBroken(name) {
		http.Error(w, "broken", http.StatusServiceUnavailable)
	}
}

func serve() {
	s := &state{broken: map[string]bool{}}
	s.set("tcp", false)

	words := http.NewServeMux()
	words.HandleFunc("/break", func(_ http.ResponseWriter, r *http.Request) { s.set(r.FormValue("name"), true) })
	words.HandleFunc("/mend", func(_ http.ResponseWriter, r *http.Request) { s.set(r.FormValue("name"), false) })
	words.HandleFunc("/ask", func(w http.ResponseWriter, r *http.Request) {
		if r.FormValue("name") == "hooks" {
			fmt.Fprintln(w, s.hooks.Load())
			return
		}
		s.answer(w, r.FormValue("name"))
	})

	secure := http.NewServeMux()
	// A probe's own header arrives, or the probe is not what its author wrote.
	secure.HandleFunc("/ready", func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("X-Probe") != "100%" || r.FormValue("full") != "1" {
			http.Error(w, "not what was declared", http.StatusBadRequest)
			return
		}
		s.answer(w, "ready")
	})
	secure.HandleFunc("/alive", func(w http.ResponseWriter, _ *http.Request) { s.answer(w, "alive") })

	plain := http.NewServeMux()
	plain.HandleFunc("/hook", func(http.ResponseWriter, *http.Request) { s.hooks.Add(1) })

	server := &http.Server{Addr: ":8443", Handler: secure, TLSConfig: &tls.Config{Certificates: own()}}
	go func() { log.Fatal(http.ListenAndServe(control, words)) }()
	go func() { log.Fatal(http.ListenAndServe(":8080", plain)) }()
	go func() { log.Fatal(server.ListenAndServeTLS("", "")) }()
	signals := make(chan os.Signal, 1)
	signal.Notify(signals, syscall.SIGTERM)
	<-signals
}

// own makes a certificate that nobody vouches for.
func own() []tls.Certificate {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		log.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), NotAfter: time.Now().Add(24 * time.Hour)}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		log.Fatal(err)
	}
	return []tls.Certificate{{Certificate: [][]byte{der}, PrivateKey: key}}
}
