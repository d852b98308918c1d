// Package verdicts asks Istio what its sidecar does with connections.
//
// Istio's control plane validates the documents as at admission and builds the listeners, routes
// and clusters of one sidecar; its simulation of Envoy says which cluster a connection reaches. The
// simulation is part of Istio's tests and wants their *testing.T, so this is a test, too:
//
//	go test -c -o answer . && SCENARIOS=in.jsonl ANSWERED=out.jsonl ./answer
//
// A line of SCENARIOS is a scenario of draw.py; a line of ANSWERED is the same with the answers.
package verdicts

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"os"
	"strings"
	"testing"

	meshapi "istio.io/api/mesh/v1alpha1"
	api "istio.io/api/networking/v1alpha3"
	"istio.io/istio/pilot/pkg/config/kube/crd"
	"istio.io/istio/pilot/pkg/model"
	"istio.io/istio/pilot/pkg/simulation"
	"istio.io/istio/pilot/test/xds"
	"istio.io/istio/pkg/config"
	"istio.io/istio/pkg/config/mesh"
	"istio.io/istio/pkg/log"
)

type scenario struct {
	ID        string     `json:"id"`
	Mode      string     `json:"mode"`
	Documents []document `json:"documents"`
	Calls     []*call    `json:"calls"`
}

type document struct {
	Text    json.RawMessage `json:"text"`
	Refused string          `json:"refused,omitempty"`
}

type call struct {
	Destination netip.AddrPort `json:"destination"`
	Speaks      string         `json:"speaks"`
	Name        string         `json:"name,omitempty"`
	// passthrough, blackhole, or service with its host.
	Istio string `json:"istio"`
	// The hosts that let it pass when nothing else is registered.
	Alone []string `json:"alone,omitempty"`
}

const (
	namespace = "app"
	workload  = "10.77.1.2"
)

func TestAnswer(t *testing.T) {
	for _, scope := range log.Scopes() {
		scope.SetOutputLevel(log.NoneLevel)
	}
	in, err := os.Open(os.Getenv("SCENARIOS"))
	must(t, err)
	out, err := os.Create(os.Getenv("ANSWERED"))
	must(t, err)
	read, write := json.NewDecoder(in), json.NewEncoder(out)
	for {
		var next scenario
		if err := read.Decode(&next); errors.Is(err, io.EOF) {
			break
		} else {
			must(t, err)
		}
		// A control plane ends with the test that has started it.
		t.Run(next.ID, func(t *testing.T) {
			next.answer(t)
			must(t, write.Encode(next))
		})
	}
	must(t, out.Close())
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func (s *scenario) answer(t *testing.T) {
	entries := s.validate()
	var kept []*call
	for i, verdict := range ask(t, entries, s.Mode, s.Calls) {
		if verdict != unknown {
			s.Calls[i].Istio = verdict
			kept = append(kept, s.Calls[i])
		}
	}
	s.Calls = kept
	for _, entry := range entries {
		for _, host := range entry.Spec.(*api.ServiceEntry).Hosts {
			s.answerAlone(t, entry, host)
		}
	}
}

// validate leaves out what Istio's admission refuses, and says why.
func (s *scenario) validate() []config.Config {
	var entries []config.Config
	for i := range s.Documents {
		document := &s.Documents[i]
		parsed, _, err := crd.ParseInputs(string(document.Text))
		if err != nil {
			document.Refused = err.Error()
			continue
		}
		entries = append(entries, parsed...)
	}
	return entries
}

// answerAlone notes the calls that host lets pass with one of the entry's addresses and without any
// other entry: in a larger registry listeners conflict, and one of them is dropped.
func (s *scenario) answerAlone(t *testing.T, entry config.Config, host string) {
	addresses := entry.Spec.(*api.ServiceEntry).Addresses
	for i := range max(len(addresses), 1) {
		one := entry.DeepCopy()
		spec := one.Spec.(*api.ServiceEntry)
		spec.Hosts = []string{host}
		if len(addresses) > 0 {
			spec.Addresses = addresses[i : i+1]
		}
		for n, verdict := range ask(t, []config.Config{one}, "REGISTRY_ONLY", s.Calls) {
			alone := &s.Calls[n].Alone
			known := len(*alone) > 0 && (*alone)[len(*alone)-1] == host
			if strings.HasPrefix(verdict, "service ") && !known {
				*alone = append(*alone, host)
			}
		}
	}
}

// unknown: the simulation cannot say.
const unknown = "unknown"

func ask(t *testing.T, entries []config.Config, mode string, calls []*call) []string {
	policy := &meshapi.MeshConfig_OutboundTrafficPolicy{}
	policy.Mode = meshapi.MeshConfig_OutboundTrafficPolicy_Mode(
		meshapi.MeshConfig_OutboundTrafficPolicy_Mode_value[mode])
	settings := mesh.DefaultMeshConfig()
	settings.OutboundTrafficPolicy = policy
	plane := xds.NewFakeDiscoveryServer(t, xds.FakeOptions{Configs: entries, MeshConfig: settings})
	sidecar := simulation.NewSimulation(t, plane, plane.SetupProxy(&model.Proxy{
		ConfigNamespace: namespace,
		IPAddresses:     []string{workload},
		Metadata:        &model.NodeMetadata{Namespace: namespace, IstioVersion: "1.31.0"},
	}))
	verdicts := make([]string, len(calls))
	for i, call := range calls {
		verdicts[i] = verdict(sidecar, call.input())
	}
	return verdicts
}

func (c *call) input() simulation.Call {
	input := simulation.Call{
		Address:  c.Destination.Addr().String(),
		Port:     int(c.Destination.Port()),
		Protocol: simulation.TCP,
		CallMode: simulation.CallModeOutbound,
	}
	switch c.Speaks {
	case "http":
		// Envoy compares a Host in lower case (RouteMatcher in source/common/router); the
		// simulation compares its bytes.
		input.Protocol, input.HostHeader = simulation.HTTP, strings.ToLower(c.Name)
	case "tls":
		input.Protocol, input.TLS, input.Sni = simulation.HTTP, simulation.TLS, c.Name
	}
	return input
}

func verdict(sidecar *simulation.Simulation, input simulation.Call) (verdict string) {
	defer func() {
		// It panics where a listener names routes that it does not know.
		if recover() != nil {
			verdict = unknown
		}
	}()
	result := sidecar.Run(input)
	cluster := result.ClusterMatched
	switch {
	case result.Error != nil && strings.HasPrefix(result.Error.Error(), "multiple filter chains"):
		return unknown
	case result.Error != nil || cluster == "" || cluster == "BlackHoleCluster":
		return "blackhole"
	case cluster == "PassthroughCluster":
		return "passthrough"
	default:
		// outbound|443||api.example.com
		return fmt.Sprint("service ", strings.Split(cluster, "|")[3])
	}
}
