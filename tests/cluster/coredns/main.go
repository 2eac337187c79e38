// Command coredns is CoreDNS with the plugins that a cluster's Corefile names, and no others: it builds in two minutes.
package main

import (
	"github.com/coredns/coredns/core/dnsserver"
	"github.com/coredns/coredns/coremain"
	_ "github.com/coredns/coredns/plugin/cache"
	_ "github.com/coredns/coredns/plugin/errors"
	_ "github.com/coredns/coredns/plugin/health"
	_ "github.com/coredns/coredns/plugin/hosts"
	_ "github.com/coredns/coredns/plugin/kubernetes"
	_ "github.com/coredns/coredns/plugin/loadbalance"
	_ "github.com/coredns/coredns/plugin/ready"
	_ "github.com/coredns/coredns/plugin/reload"
)

func main() {
	// The order in which plugins see a query, whatever their order in the Corefile: upstream's plugin.cfg.
	dnsserver.Directives = []string{
		"reload", "health", "ready", "errors", "cache", "loadbalance", "hosts", "kubernetes",
	}
	coremain.Run()
}
