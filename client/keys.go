package client

import (
	"context"
	"net/http"
	"net/url"
	"time"
)

// Key is an API key without its secret.
type Key struct {
	// ID names the key in [Client.RevokeKey].
	ID string `json:"id"`
	// Tenant is who the key acts for.
	Tenant string `json:"tenant"`
	// Name is for people. It may be empty.
	Name string `json:"name"`
	// Prefix is the beginning of the secret, to recognise it by.
	Prefix string `json:"prefix"`
	// Scopes say what the key may do: "run", "manage", "admin".
	Scopes []string `json:"scopes"`
	// CreatedAt is when it was made, RevokedAt when it stopped to be good; zero
	// while it is.
	CreatedAt time.Time `json:"createdAt"`
	RevokedAt time.Time `json:"revokedAt,omitzero"`
	// PreviousUntil is until when the secret before the last rotation is good; zero
	// if it was never rotated.
	PreviousUntil time.Time `json:"previousUntil,omitzero"`
	// RequestsPerSecond and CreatesPerSecond bound how fast it may ask, and create
	// sandboxes, each with a burst of ten seconds' worth; 0 is unlimited.
	RequestsPerSecond float64 `json:"requestsPerSecond,omitempty"`
	CreatesPerSecond  float64 `json:"createsPerSecond,omitempty"`
	// Secret is the key itself. Only [Client.CreateKey] and [Client.RotateKey] return
	// it, once.
	Secret string `json:"secret,omitempty"`
}

// KeyRequest asks for a key.
type KeyRequest struct {
	// Name is for people: at most 128 bytes.
	Name string `json:"name"`
	// Tenant is who it acts for; empty means the caller's own tenant. Another one
	// needs a key with the scope admin.
	Tenant string `json:"tenant,omitempty"`
	// Scopes are what it may do; none means "run".
	Scopes []string `json:"scopes,omitempty"`
	// RequestsPerSecond and CreatesPerSecond are as in [Key].
	RequestsPerSecond float64 `json:"requestsPerSecond,omitempty"`
	CreatesPerSecond  float64 `json:"createsPerSecond,omitempty"`
}

// Keys returns the keys of a tenant; an empty one means all that the caller may
// see.
func (c *Client) Keys(ctx context.Context, tenant string) ([]Key, error) {
	var keys []Key
	_, err := c.call(ctx, request{op: "list keys", method: http.MethodGet, path: "/v1/keys", query: only("tenant", tenant)}, &keys)
	return keys, err
}

// only is a query of one parameter, nil if it is empty.
func only(name, value string) url.Values {
	if value == "" {
		return nil
	}
	return url.Values{name: {value}}
}

// RotateKey gives a key a new secret, which is in what it returns. The one that it
// replaces is good for grace more: whole seconds, at most 30 days.
func (c *Client) RotateKey(ctx context.Context, id string, grace time.Duration) (Key, error) {
	var key Key
	if err := checkID("rotate key", id); err != nil {
		return key, err
	}
	body := map[string]int64{"graceSeconds": int64(grace / time.Second)}
	_, err := c.call(ctx, request{op: "rotate key", method: http.MethodPost, path: "/v1/keys/" + id + "/rotate", body: body}, &key)
	return key, err
}

// KeyChange is what [Client.ChangeKey] changes; a nil field stays.
type KeyChange struct {
	// Name, RequestsPerSecond and CreatesPerSecond are as in [Key].
	Name              *string  `json:"name,omitempty"`
	RequestsPerSecond *float64 `json:"requestsPerSecond,omitempty"`
	CreatesPerSecond  *float64 `json:"createsPerSecond,omitempty"`
}

// ChangeKey changes a key's name or rates, from its next request on.
func (c *Client) ChangeKey(ctx context.Context, id string, change KeyChange) (Key, error) {
	var key Key
	if err := checkID("change key", id); err != nil {
		return key, err
	}
	_, err := c.call(ctx, request{op: "change key", method: http.MethodPatch, path: "/v1/keys/" + id, body: change}, &key)
	return key, err
}

// CreateKey issues a key and returns it with its secret, which the server tells
// this once.
func (c *Client) CreateKey(ctx context.Context, req KeyRequest) (Key, error) {
	var key Key
	_, err := c.call(ctx, request{op: "create key", method: http.MethodPost, path: "/v1/keys", body: req}, &key)
	return key, err
}

// RevokeKey makes a key invalid from now on. CodeNotFound when there is none.
func (c *Client) RevokeKey(ctx context.Context, id string) error {
	if err := checkID("revoke key", id); err != nil {
		return err
	}
	_, err := c.call(ctx, request{op: "revoke key", method: http.MethodDelete, path: "/v1/keys/" + id}, nil)
	return err
}
