package cli

import (
	"context"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/bulkheadhq/bulkhead/client"
)

// KeyCmd holds the commands on API keys.
type KeyCmd struct {
	Ls     KeyLsCmd     `cmd:"" help:"List keys."`
	Create KeyCreateCmd `cmd:"" help:"Make a key and print it, this once."`
	Set    KeySetCmd    `cmd:"" help:"Change a key's name or rates."`
	Rotate KeyRotateCmd `cmd:"" help:"Give a key a new secret and print it, this once."`
	Revoke KeyRevokeCmd `cmd:"" help:"Make keys invalid."`
}

// KeyLsCmd lists keys.
type KeyLsCmd struct {
	Tenant string `help:"Only this tenant's." placeholder:"ID"`
}

// Run lists keys.
func (c *KeyLsCmd) Run(ctx context.Context, a *App) error {
	cl, err := a.Client()
	if err != nil {
		return err
	}
	keys, err := cl.Keys(ctx, c.Tenant)
	if err != nil {
		return err
	}
	if a.flags.JSON {
		return a.printJSON(append([]client.Key{}, keys...))
	}
	rows := make([][]string, len(keys))
	for i, k := range keys {
		state := "good"
		switch {
		case !k.RevokedAt.IsZero():
			state = "revoked " + moment(k.RevokedAt)
		case k.PreviousUntil.After(time.Now()):
			state = "good, the one before until " + moment(k.PreviousUntil)
		}
		rows[i] = []string{k.ID, k.Name, k.Tenant, k.Prefix + "…", strings.Join(k.Scopes, ","), most(k.RequestsPerSecond, "/s"), most(k.CreatesPerSecond, "/s"), moment(k.CreatedAt), state}
	}
	return a.table([]string{"KEY", "NAME", "TENANT", "BEGINS", "SCOPES", "REQUESTS", "CREATES", "MADE", "STATE"}, rows)
}

// KeyCreateCmd makes a key.
type KeyCreateCmd struct {
	Name     string   `arg:"" optional:"" help:"What to call it."`
	Tenant   string   `help:"Who it acts for. Default: your own tenant." placeholder:"ID"`
	Scope    []string `help:"What it may do: run (the default), manage (its tenant's keys, limits and usage) or admin (everything of all tenants). May be repeated." placeholder:"SCOPE"`
	Admin    bool     `help:"Give it every scope."`
	Requests float64  `help:"Requests a second that it may make; 0 is unlimited." placeholder:"N"`
	Creates  float64  `help:"Sandboxes a second that it may create; 0 is unlimited." placeholder:"N"`
}

// Run makes the key.
func (c *KeyCreateCmd) Run(ctx context.Context, a *App) error {
	cl, err := a.Client()
	if err != nil {
		return err
	}
	req := client.KeyRequest{Name: c.Name, Tenant: c.Tenant, Scopes: c.Scope, RequestsPerSecond: c.Requests, CreatesPerSecond: c.Creates}
	if c.Admin {
		req.Scopes = []string{"run", "manage", "admin"}
	}
	key, err := cl.CreateKey(ctx, req)
	if err != nil {
		return err
	}
	return a.secret(key, "key "+key.ID+" for tenant "+key.Tenant)
}

// secret prints a key that was made, and says what it is.
func (a *App) secret(key client.Key, what string) error {
	if a.flags.JSON {
		return a.printJSON(key)
	}
	a.note("%s; it is shown this once:", what)
	return a.line(key.Secret)
}

// KeySetCmd changes a key.
type KeySetCmd struct {
	ID       string   `arg:"" help:"The key, as 'key ls' shows it."`
	Name     *string  `help:"What to call it." placeholder:"TEXT"`
	Requests *float64 `help:"Requests a second that it may make; 0 is unlimited." placeholder:"N"`
	Creates  *float64 `help:"Sandboxes a second that it may create; 0 is unlimited." placeholder:"N"`
}

// Run changes the key.
func (c *KeySetCmd) Run(ctx context.Context, a *App) error {
	cl, err := a.Client()
	if err != nil {
		return err
	}
	key, err := cl.ChangeKey(ctx, c.ID, client.KeyChange{Name: c.Name, RequestsPerSecond: c.Requests, CreatesPerSecond: c.Creates})
	if err != nil {
		return err
	}
	if a.flags.JSON {
		return a.printJSON(key)
	}
	return a.line(fmt.Sprintf("key %s may make %s requests and create %s sandboxes a second", key.ID, perSecond(key.RequestsPerSecond), perSecond(key.CreatesPerSecond)))
}

// perSecond is a rate for people.
func perSecond(rate float64) string {
	if rate == 0 {
		return "any number of"
	}
	return strconv.FormatFloat(rate, 'f', -1, 64)
}

// KeyRotateCmd gives a key a new secret.
type KeyRotateCmd struct {
	ID    string        `arg:"" help:"The key, as 'key ls' shows it."`
	Grace time.Duration `default:"24h" help:"How long the old secret stays good; at most 720h."`
}

// Run rotates the key.
func (c *KeyRotateCmd) Run(ctx context.Context, a *App) error {
	cl, err := a.Client()
	if err != nil {
		return err
	}
	key, err := cl.RotateKey(ctx, c.ID, c.Grace)
	if err != nil {
		return err
	}
	return a.secret(key, "new secret of key "+key.ID+", the old one is good until "+moment(key.PreviousUntil))
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
