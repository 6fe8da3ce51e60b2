package node

import (
	"context"
	"errors"
	"fmt"

	"github.com/bulkheadhq/bulkhead"
)

// SetNetwork replaces what a running sandbox of the tenant may reach outside. It
// returns when the change is in force and durable; then it holds for connections
// that are open too. Codes: not_found, invalid.
func (n *Node) SetNetwork(ctx context.Context, tenant, id string, internet bool, network bulkhead.Network) (bulkhead.Sandbox, error) {
	egress, err := network.Egress(internet)
	if err != nil {
		return bulkhead.Sandbox{}, err
	}
	l, err := n.find(tenant, id)
	if err != nil {
		return bulkhead.Sandbox{}, err
	}
	l.mu.Lock() // over all of it, as in SetDeadline
	defer l.mu.Unlock()
	if l.sb.State != bulkhead.StateRunning {
		return bulkhead.Sandbox{}, bulkhead.Errorf(bulkhead.CodeNotFound, "sandbox %q does not exist", id)
	}
	sb := l.sb
	sb.AllowInternet, sb.Network = internet, network
	if err := n.cfg.Store.PutSandbox(ctx, sb); err != nil {
		return bulkhead.Sandbox{}, fmt.Errorf("record network: %w", err)
	}
	if err := l.box.Part.Bind(ctx, sb.Limits, egress); err != nil {
		// The old one is in force still, and a restart must not think otherwise.
		back := n.cfg.Store.PutSandbox(context.WithoutCancel(ctx), l.sb)
		return bulkhead.Sandbox{}, errors.Join(fmt.Errorf("set network: %w", err), back)
	}
	l.sb = sb
	return sb, nil
}
