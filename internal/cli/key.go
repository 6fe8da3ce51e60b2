package cli

import (
	"context"
	"strings"

	"github.com/bulkheadhq/bulkhead/client"
)

// KeyCmd holds the commands on API keys.
type KeyCmd struct {
	Ls     KeyLsCmd     `cmd:"" help:"List keys."`
	Create KeyCreateCmd `cmd:"" help:"Make a key and print it, this once."`
	Revoke KeyRevokeCmd `cmd:"" help:"Make keys invalid."`
}

// KeyLsCmd lists keys.
type KeyLsCmd struct{}

// Run lists keys.
func (*KeyLsCmd) Run(ctx context.Context, a *App) error {
	cl, err := a.Client()
	if err != nil {
		return err
	}
	keys, err := cl.Keys(ctx)
	if err != nil {
		return err
	}
	if a.flags.JSON {
		return a.printJSON(append([]client.Key{}, keys...))
	}
	rows := make([][]string, len(keys))
	for i, k := range keys {
		state := "good"
		if !k.RevokedAt.IsZero() {
			state = "revoked " + moment(k.RevokedAt)
		}
		rows[i] = []string{k.ID, k.Name, k.Tenant, k.Prefix + "…", strings.Join(k.Scopes, ","), moment(k.CreatedAt), state}
	}
	return a.table([]string{"KEY", "NAME", "TENANT", "BEGINS", "SCOPES", "MADE", "STATE"}, rows)
}

// KeyCreateCmd makes a key.
type KeyCreateCmd struct {
	Name   string `arg:"" optional:"" help:"What to call it."`
	Tenant string `help:"Who it acts for. Default: your own tenant." placeholder:"NAME"`
	Admin  bool   `help:"Let it make and revoke keys, too."`
}

// Run makes the key.
func (c *KeyCreateCmd) Run(ctx context.Context, a *App) error {
	cl, err := a.Client()
	if err != nil {
		return err
	}
	req := client.KeyRequest{Name: c.Name, Tenant: c.Tenant}
	if c.Admin {
		req.Scopes = []string{"run", "manage", "admin"}
	}
	key, err := cl.CreateKey(ctx, req)
	if err != nil {
		return err
	}
	if a.flags.JSON {
		return a.printJSON(key)
	}
	a.note("key %s for tenant %s; it is shown this once:", key.ID, key.Tenant)
	return a.line(key.Secret)
}

// KeyRevokeCmd revokes keys.
type KeyRevokeCmd struct {
	IDs []string `arg:"" name:"id" help:"The keys, as 'key ls' shows them."`
}

// Run revokes the keys.
func (c *KeyRevokeCmd) Run(ctx context.Context, a *App) error {
	cl, err := a.Client()
	if err != nil {
		return err
	}
	return a.each("revoked", c.IDs, func(id string) error { return cl.RevokeKey(ctx, id) })
}
