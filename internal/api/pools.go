package api

import (
	"context"
	"encoding/json"
	"net/http"
	"time"

	"github.com/bulkheadhq/bulkhead"
	"github.com/bulkheadhq/bulkhead/internal/jsonbody"
	"github.com/bulkheadhq/bulkhead/internal/store"
	"github.com/bulkheadhq/bulkhead/internal/supply"
)

// Pools are the boxes that wait on this node.
type Pools interface {
	// Report returns what there is of every template's pool, and why.
	Report() supply.Report
	// Pin sets the size of a template's pool; nil gives it back to the forecast.
	// Codes: not_found, invalid.
	Pin(ctx context.Context, template string, size *store.PoolSize) (supply.Status, error)
	// Predict forecasts the requests for a template. Codes: not_found, invalid.
	Predict(template string, horizon time.Duration) (supply.Prediction, error)
}

// DefaultHorizon is what a forecast is for when the query names no horizon.
const DefaultHorizon = time.Hour

// listPools serves GET /v1/pools.
func (s *Server) listPools(w http.ResponseWriter, _ *http.Request, _ caller) error {
	writeJSON(w, http.StatusOK, s.cfg.Pools.Report())
	return nil
}

// poolPatch is the body of PATCH /v1/pools/{template}. A pin that is null gives
// the pool back to the forecast.
type poolPatch struct {
	Pin json.RawMessage `json:"pin"`
}

// poolPin is a pinned size.
type poolPin struct {
	Warm *int `json:"warm"`
	Cold *int `json:"cold"`
}

// patchPool serves PATCH /v1/pools/{template}.
func (s *Server) patchPool(w http.ResponseWriter, r *http.Request, c caller) error {
	var body poolPatch
	if err := jsonbody.Decode(r, &body, false, true); err != nil {
		return err
	}
	var size *store.PoolSize
	switch string(body.Pin) {
	case "":
		return bulkhead.Errorf(bulkhead.CodeInvalid, "pin is missing; it must be an object with warm and cold, or null for the forecast to decide")
	case "null":
	default:
		var pin poolPin
		if err := jsonbody.Part("pin", body.Pin, &pin); err != nil {
			return err
		}
		if pin.Warm == nil {
			return bulkhead.Errorf(bulkhead.CodeInvalid, "pin.warm is missing")
		}
		size = &store.PoolSize{Warm: *pin.Warm}
		if pin.Cold != nil {
			size.Cold = *pin.Cold
		}
	}
	name := r.PathValue("template")
	st, err := s.cfg.Pools.Pin(r.Context(), name, size)
	if err != nil {
		return err
	}
	c.about(st.Template, "", string(body.Pin))
	s.cfg.Log.InfoContext(r.Context(), "pool set", "template", st.Template, "pinned", st.Pinned,
		"warm", st.Target.Warm, "cold", st.Target.Cold, "by", c.ID)
	writeJSON(w, http.StatusOK, st)
	return nil
}

// predictPool serves GET /v1/pools/{template}/forecast, for the time that the
// query names as horizon, such as 90m.
func (s *Server) predictPool(w http.ResponseWriter, r *http.Request, _ caller) error {
	horizon := DefaultHorizon
	if text := r.URL.Query().Get("horizon"); text != "" {
		var err error
		if horizon, err = time.ParseDuration(text); err != nil {
			return bulkhead.Errorf(bulkhead.CodeInvalid, "horizon is %.40q; it must be a time such as 90m", text)
		}
	}
	p, err := s.cfg.Pools.Predict(r.PathValue("template"), horizon)
	if err != nil {
		return err
	}
	writeJSON(w, http.StatusOK, p)
	return nil
}
