package client

import (
	"context"
	"net/http"
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
	// Secret is the key itself. Only [Client.CreateKey] returns it, once.
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
}

// Keys returns the keys that the caller may see.
func (c *Client) Keys(ctx context.Context) ([]Key, error) {
	var keys []Key
	_, err := c.call(ctx, request{op: "list keys", method: http.MethodGet, path: "/v1/keys"}, &keys)
	return keys, err
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
