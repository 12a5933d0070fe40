// CoreDNS with only the plugins that the test cluster's Corefile names.
//
// There is no cache plugin on purpose: the tests watch MX records come and go,
// and an answer kept for some seconds would show them the past.
package main

import (
	"github.com/coredns/coredns/core/dnsserver"
	"github.com/coredns/coredns/coremain"

	_ "github.com/coredns/coredns/plugin/bind"
	_ "github.com/coredns/coredns/plugin/errors"
	_ "github.com/coredns/coredns/plugin/forward"
	_ "github.com/coredns/coredns/plugin/kubernetes"
	_ "github.com/coredns/coredns/plugin/ready"
	_ "github.com/coredns/coredns/plugin/template"
)

func main() {
	// The order of plugins in a server block, whatever order the Corefile has.
	dnsserver.Directives = []string{"bind", "ready", "errors", "template", "kubernetes", "forward"}
	coremain.Run()
}
