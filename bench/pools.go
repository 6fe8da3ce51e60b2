package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"time"
)

// poolState is what GET /v1/pools says of a template.
type poolState struct {
	Template string `json:"template"`
	Warm     int    `json:"warm"`
	Cold     int    `json:"cold"`
	Making   int    `json:"making"`
	Target   struct {
		Warm int `json:"warm"`
		Cold int `json:"cold"`
	} `json:"target"`
}

// pin sets how many boxes of the interpreter's template wait, and waits until
// they do and nothing else is being made.
func (o options) pin(ctx context.Context, warm, cold int) error {
	if err := o.patch(ctx, map[string]any{"pin": map[string]int{"warm": warm, "cold": cold}}); err != nil {
		return err
	}
	return o.settled(ctx)
}

// settled waits until as many boxes wait as should and nothing is being made, so
// that each measurement finds the pool full.
func (o options) settled(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, 3*time.Minute)
	defer cancel()
	for {
		p, err := o.pool(ctx)
		if err != nil {
			return err
		}
		if p.Warm == p.Target.Warm && p.Cold == p.Target.Cold && p.Making == 0 {
			pause(ctx, 200*time.Millisecond) // what a new box still does by itself
			return ctx.Err()
		}
		pause(ctx, 50*time.Millisecond)
	}
}

// unpin gives the size back to the forecast.
func (o options) unpin(ctx context.Context) error {
	return o.patch(ctx, map[string]any{"pin": nil})
}

func (o options) patch(ctx context.Context, body any) error {
	data, err := json.Marshal(body)
	if err != nil {
		return err
	}
	return o.call(ctx, http.MethodPatch, "/v1/pools/"+interpreter, data, nil)
}

func (o options) pool(ctx context.Context) (poolState, error) {
	var report struct {
		Pools []poolState `json:"pools"`
	}
	if err := o.call(ctx, http.MethodGet, "/v1/pools", nil, &report); err != nil {
		return poolState{}, err
	}
	for _, p := range report.Pools {
		if p.Template == interpreter {
			return p, nil
		}
	}
	return poolState{}, errors.New("there is no pool of " + interpreter)
}

func (o options) call(ctx context.Context, method, path string, body []byte, into any) error {
	req, err := http.NewRequestWithContext(ctx, method, o.url+path, bytes.NewReader(body))
	if err != nil {
		return err
	}
	req.Header.Set("X-Api-Key", o.key)
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if resp.StatusCode >= http.StatusBadRequest {
		return fmt.Errorf("%s %s answered %s", method, path, resp.Status)
	}
	if into == nil {
		return nil
	}
	return json.NewDecoder(resp.Body).Decode(into)
}
