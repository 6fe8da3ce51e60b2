package api

import (
	"encoding/json"
	"net/http"
	"slices"
	"strings"

	"github.com/bulkheadhq/bulkhead"
	"github.com/bulkheadhq/bulkhead/internal/jsonbody"
)

// network is E2B's wish about traffic in and out. Here, unlike elsewhere, a field
// that is not known is no fit thing to ignore: the next one may close something.
type network struct {
	networkFields
	unknown []string // fields that ask for something, sorted
}

// networkFields are those that are known.
type networkFields struct {
	AllowOut           []string                   `json:"allowOut"`
	DenyOut            []string                   `json:"denyOut"`
	Rules              map[string]json.RawMessage `json:"rules"`
	EgressProxy        json.RawMessage            `json:"egressProxy"`
	HTTPSPorts         []int64                    `json:"httpsPorts"`
	DNSServers         []string                   `json:"dnsServers"`
	AllowPublicTraffic *bool                      `json:"allowPublicTraffic"`
	MaskRequestHost    string                     `json:"maskRequestHost"`
}

// knownNetwork are the names of [networkFields].
var knownNetwork = []string{
	"allowOut", "denyOut", "rules", "egressProxy", "httpsPorts", "dnsServers", "allowPublicTraffic", "maskRequestHost",
}

// UnmarshalJSON implements [json.Unmarshaler].
func (n *network) UnmarshalJSON(b []byte) error {
	var all map[string]json.RawMessage
	err := json.Unmarshal(b, &n.networkFields)
	if err == nil {
		err = json.Unmarshal(b, &all)
	}
	for name, value := range all {
		if !slices.ContainsFunc(knownNetwork, func(known string) bool { return strings.EqualFold(known, name) }) && !empty(value) {
			n.unknown = append(n.unknown, name)
		}
	}
	slices.Sort(n.unknown)
	return err
}

// empty reports whether a JSON value asks for nothing.
func empty(value json.RawMessage) bool {
	return len(value) == 0 || slices.Contains([]string{"null", "false", "0", `""`, "[]", "{}"}, string(value))
}

// refuse names the first option that asks for something this server has not.
func (n network) refuse() error {
	for _, o := range []struct {
		field string
		asked bool
		why   string
	}{
		{"network.rules", len(n.Rules) > 0, "header rules for outbound requests"},
		{"network.egressProxy", !empty(n.EgressProxy), "an outbound proxy"},
		{"network.dnsServers", len(n.DNSServers) > 0, "lists of allowed DNS servers"},
	} {
		if o.asked {
			return missing(o.field+" is set", o.why)
		}
	}
	if len(n.unknown) > 0 {
		return missing("network."+n.unknown[0]+" is set", "that option")
	}
	return nil
}

// outbound translates n and allow_internet_access, which is true where it is
// missing. A list that denies everything is the same as the flag.
func (n network) outbound(allow *bool) (internet bool, out bulkhead.Network, err error) {
	internet = (allow == nil || *allow) && !slices.Contains(n.DenyOut, bulkhead.AllTraffic)
	if len(n.AllowOut) > 0 {
		out.AllowOut = n.AllowOut
	}
	if len(n.DenyOut) > 0 {
		out.DenyOut = n.DenyOut
	}
	_, err = out.Egress(internet)
	return internet, out, err
}

// newNetwork is the body of PUT /sandboxes/{id}/network: a network object with
// allow_internet_access in it.
type newNetwork struct {
	network
	allow *bool
}

// UnmarshalJSON implements [json.Unmarshaler].
func (n *newNetwork) UnmarshalJSON(b []byte) error {
	const field = "allow_internet_access"
	if err := n.network.UnmarshalJSON(b); err != nil {
		return err
	}
	n.unknown = slices.DeleteFunc(n.unknown, func(name string) bool { return name == field })
	var own struct {
		Allow *bool `json:"allow_internet_access"`
	}
	if err := json.Unmarshal(b, &own); err != nil {
		return err
	}
	n.allow = own.Allow
	return nil
}

// setNetwork serves PUT /sandboxes/{id}/network: what the sandbox may reach from
// now on. What the body does not name is not restricted any more.
func (s *Server) setNetwork(w http.ResponseWriter, r *http.Request, c caller) error {
	id, err := sandboxID(r)
	if err != nil {
		return err
	}
	var body newNetwork
	if err := jsonbody.Decode(r, &body, false, false); err != nil {
		return err
	}
	if err := body.refuse(); err != nil {
		return err
	}
	for _, o := range []struct {
		field string
		set   bool
	}{
		{"allowPublicTraffic", body.AllowPublicTraffic != nil},
		{"httpsPorts", len(body.HTTPSPorts) > 0},
		{"maskRequestHost", body.MaskRequestHost != ""},
	} {
		if o.set {
			return bulkhead.Errorf(bulkhead.CodeInvalid, "network.%s is set; it is for a new sandbox, and a running one keeps its own", o.field)
		}
	}
	internet, out, err := body.outbound(body.allow)
	if err != nil {
		return err
	}
	if _, err := s.cfg.Networks.SetNetwork(r.Context(), c.Tenant, id, internet, out); err != nil {
		return err
	}
	w.WriteHeader(http.StatusNoContent)
	return nil
}
