package main

import (
	"bufio"
	"crypto/tls"
	"crypto/x509"
	"flag"
	"fmt"
	"os"
	"slices"
	"strings"
	"time"

	"proa.dev/benchmarks/baseline/internal/fleet"
	"proa.dev/benchmarks/baseline/internal/wire"
)

// settings are the flags.
type settings struct {
	mode    string
	options fleet.Options
	control string
	stdin   bool
	timeout time.Duration
	quiet   time.Duration
	rounds  int
	pushURL string
}

// subscriptionFlag collects repeated --subscribe TYPE=NAMES.
type subscriptionFlag []fleet.Subscription

func (s *subscriptionFlag) String() string { return "" }

// Set adds the subscription TYPE=NAME,NAME or TYPE=@FILE (a name a line) or TYPE (the wildcard).
func (s *subscriptionFlag) Set(text string) error {
	short, names, _ := strings.Cut(text, "=")
	typeURL, known := wire.Types[short]
	if !known && !strings.HasPrefix(short, "type.googleapis.com/") {
		return fmt.Errorf("type must be cds, eds, lds, rds, sds or a type URL, got %q", short)
	}
	if !known {
		typeURL = short
	}
	subscription := fleet.Subscription{Type: typeURL}
	if file, ok := strings.CutPrefix(names, "@"); ok {
		lines, err := readLines(file)
		if err != nil {
			return err
		}
		subscription.Names = lines
	} else if names != "" {
		subscription.Names = strings.Split(names, ",")
	}
	*s = append(*s, subscription)
	return nil
}

func readLines(path string) ([]string, error) {
	file, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer file.Close()
	var lines []string
	scanner := bufio.NewScanner(file)
	for scanner.Scan() {
		if line := strings.TrimSpace(scanner.Text()); line != "" {
			lines = append(lines, line)
		}
	}
	return lines, scanner.Err()
}

func parse(args []string) (settings, error) {
	var s settings
	var streams int
	var node, token, tokens, root, serverName string
	var basePort uint
	var subscriptions subscriptionFlag
	flags := flag.NewFlagSet("xdsload", flag.ContinueOnError)
	flags.StringVar(&s.mode, "mode", "hold", strings.Join(modes, ", "))
	flags.StringVar(&s.options.Target.Address, "address", "", "ADDRESS:PORT of the xDS server")
	flags.IntVar(&streams, "streams", 1, "delta ADS streams, each on its own connection")
	flags.StringVar(&node, "node", "load-%d.bench", "node id; %d is the stream's number from 0")
	flags.StringVar(&token, "token", "", "bearer token of every stream, or @FILE")
	flags.StringVar(&tokens, "tokens", "", "file of lines NODE_ID TOKEN, one per stream; replaces --node and --token")
	flags.StringVar(&root, "ca", "", "root certificates (PEM): TLS 1.3; without it plaintext")
	flags.StringVar(&serverName, "server-name", "", "name in the server's certificate, and :authority; default: the host of --address")
	flags.Var(&subscriptions, "subscribe", "TYPE=NAME,NAME or TYPE=@FILE or TYPE (wildcard), repeatable; cds, eds, lds, rds, sds or a type URL")
	flags.BoolVar(&s.options.Follow, "follow", false, "subscribe to the endpoints of each cluster that arrives")
	flags.BoolVar(&s.options.Remember, "remember", false, "keep versions for the command reconnect (the mode reconnect implies it)")
	flags.UintVar(&basePort, "base-port", 10_000, "endpoint port base-port + K is change K; 0: no sequence")
	flags.StringVar(&s.options.Watch, "watch", "", "the only EDS resource whose sequence counts")
	flags.IntVar(&s.options.Parallel, "parallel", 0, "streams opening at once; 0: all")
	flags.DurationVar(&s.options.ConnectTimeout, "connect-timeout", 10*time.Second, "of one connection")
	flags.DurationVar(&s.timeout, "timeout", 30*time.Second, "of each wait")
	flags.DurationVar(&s.quiet, "quiet", time.Second, "reconnect: over once nothing has arrived for so long")
	flags.StringVar(&s.control, "control", "127.0.0.1:0", "HTTP address of the commands; empty: none")
	flags.BoolVar(&s.stdin, "stdin", false, "hold: read commands from standard input too; its end is quit")
	flags.IntVar(&s.rounds, "rounds", 5, "fanout: pushes to trigger")
	flags.StringVar(&s.pushURL, "push-url", "", "fanout: URL to POST for one push, such as http://127.0.0.1:1234/push")
	if err := flags.Parse(args); err != nil {
		if err == flag.ErrHelp {
			return s, err
		}
		return s, fmt.Errorf("%w: %w", errUsage, err)
	}
	s.options.Subscriptions, s.options.BasePort = subscriptions, uint32(basePort)
	s.options.Remember = s.options.Remember || s.mode == "reconnect"
	if err := s.check(flags.NArg()); err != nil {
		return s, fmt.Errorf("%w: %w", errUsage, err)
	}
	var err error
	if s.options.Nodes, err = nodes(streams, node, token, tokens); err != nil {
		return s, err
	}
	err = s.target(root, serverName)
	return s, err
}

func (s *settings) check(extra int) error {
	switch {
	case extra > 0:
		return fmt.Errorf("there are no positional arguments")
	case !slices.Contains(modes, s.mode):
		return fmt.Errorf("--mode: must be one of %s", strings.Join(modes, ", "))
	case s.options.Target.Address == "":
		return fmt.Errorf("--address is required")
	case len(s.options.Subscriptions) == 0:
		return fmt.Errorf("--subscribe is required")
	case s.mode == "fanout" && s.pushURL == "":
		return fmt.Errorf("--mode fanout needs --push-url; hold is driven by commands")
	}
	return nil
}

// nodes returns the identity of each stream.
func nodes(streams int, pattern, token, file string) ([]fleet.Node, error) {
	if file == "" {
		if path, ok := strings.CutPrefix(token, "@"); ok {
			text, err := os.ReadFile(path)
			if err != nil {
				return nil, err
			}
			token = strings.TrimSpace(string(text))
		}
		made := make([]fleet.Node, streams)
		for i := range made {
			made[i] = fleet.Node{ID: strings.ReplaceAll(pattern, "%d", fmt.Sprint(i)), Token: token}
		}
		return made, nil
	}
	lines, err := readLines(file)
	if err != nil {
		return nil, err
	}
	if len(lines) < streams {
		return nil, fmt.Errorf("--tokens %s: %d lines for %d streams", file, len(lines), streams)
	}
	made := make([]fleet.Node, streams)
	for i := range made {
		id, secret, found := strings.Cut(lines[i], " ")
		if !found {
			return nil, fmt.Errorf("--tokens %s:%d: must be NODE_ID TOKEN", file, i+1)
		}
		made[i] = fleet.Node{ID: id, Token: strings.TrimSpace(secret)}
	}
	return made, nil
}

// target completes where to connect and how.
func (s *settings) target(root, serverName string) error {
	target := &s.options.Target
	target.Path = wire.DeltaMethod
	target.Authority = target.Address
	if serverName != "" {
		target.Authority = serverName
	}
	if root == "" {
		return nil
	}
	pem, err := os.ReadFile(root)
	if err != nil {
		return err
	}
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM(pem) {
		return fmt.Errorf("--ca %s: no certificate in it", root)
	}
	if serverName == "" {
		serverName, _, _ = strings.Cut(target.Address, ":")
	}
	target.TLS = &tls.Config{
		RootCAs: pool, ServerName: serverName, MinVersion: tls.VersionTLS13, NextProtos: []string{"h2"},
		ClientSessionCache: nil, // every connection pays a whole handshake, as a proxy's first does
	}
	return nil
}
