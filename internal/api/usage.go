package api

import (
	"encoding/csv"
	"mime"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/bulkheadhq/bulkhead"
	"github.com/bulkheadhq/bulkhead/internal/store"
)

const csvType = "text/csv"

// maxUsageDays is the longest period that usage is asked of at once.
const maxUsageDays = 400

// usageParams are those of GET /v1/usage.
type usageParams struct {
	tenantQuery

	Sandbox string `query:"sandbox" description:"Only this sandbox's."`
	From    string `query:"from" format:"date" description:"The first UTC day; the first of the month unless given."`
	To      string `query:"to" format:"date" description:"The last UTC day; today unless given."`
	By      string `query:"by" enum:"day,tenant,sandbox" default:"day" description:"What the rows are by."`
	Format  string `query:"format" enum:"json,csv" description:"csv for CSV; what Accept says unless given."`
}

// usageAnswer is what GET /v1/usage answers.
type usageAnswer struct {
	From   string           `json:"from"`
	To     string           `json:"to"`
	By     string           `json:"by"`
	Prices bulkhead.Prices  `json:"prices"`
	Rows   []store.UsageRow `json:"rows"`
	Total  bulkhead.Usage   `json:"total"`
}

// usage serves GET /v1/usage.
func (s *Server) usage(w http.ResponseWriter, r *http.Request, c caller) error {
	query := r.URL.Query()
	tenant, err := c.choose(query.Get("tenant"))
	if err != nil {
		return err
	}
	q := store.UsageQuery{Tenant: tenant, Sandbox: query.Get("sandbox")}
	if q.By, err = oneOf(r, "by", store.ByDay, store.ByTenant, store.BySandbox); err != nil {
		return err
	}
	now := s.cfg.Now().UTC()
	if q.To, err = dateQuery(r, "to", now); err != nil {
		return err
	}
	if q.From, err = dateQuery(r, "from", q.To.AddDate(0, 0, 1-q.To.Day())); err != nil {
		return err
	}
	if days := q.To.Sub(q.From).Hours() / 24; days > maxUsageDays {
		return bulkhead.Errorf(bulkhead.CodeInvalid, "from and to are %d days apart; they may be %d", int(days), maxUsageDays)
	}
	asCSV, err := wantsCSV(r)
	if err != nil {
		return err
	}
	rows, err := s.cfg.Usage.Usage(r.Context(), q)
	if err != nil {
		return err
	}
	out := usageAnswer{
		From: q.From.Format(time.DateOnly), To: q.To.Format(time.DateOnly), By: q.By, Prices: s.cfg.Prices,
		Rows: append([]store.UsageRow{}, rows...),
	}
	for i := range out.Rows {
		u := &out.Rows[i].Usage
		u.Cost = s.cfg.Prices.Cost(*u)
		out.Total.Sandboxes += u.Sandboxes
		out.Total.Seconds += u.Seconds
		out.Total.CPUSeconds += u.CPUSeconds
		out.Total.GBSeconds += u.GBSeconds
		out.Total.EgressBytes += u.EgressBytes
		out.Total.IngressBytes += u.IngressBytes
	}
	out.Total.Cost = s.cfg.Prices.Cost(out.Total)
	if asCSV {
		return writeUsageCSV(w, out.Rows)
	}
	writeJSON(w, http.StatusOK, out)
	return nil
}

// dateQuery returns a query parameter that is a day, or fallback's day.
func dateQuery(r *http.Request, name string, fallback time.Time) (time.Time, error) {
	text := r.URL.Query().Get(name)
	if text == "" {
		return fallback.UTC().Truncate(24 * time.Hour), nil
	}
	day, err := time.ParseInLocation(time.DateOnly, text, time.UTC)
	if err != nil || day.Year() < 1970 {
		return day, bulkhead.Errorf(bulkhead.CodeInvalid, "%s is %q; it must be a day such as 2026-01-31", name, text)
	}
	return day, nil
}

// wantsCSV reports whether the request asks for CSV.
func wantsCSV(r *http.Request) (bool, error) {
	if r.URL.Query().Has("format") {
		format, err := oneOf(r, "format", "json", "csv")
		return format == "csv", err
	}
	for part := range strings.SplitSeq(r.Header.Get("Accept"), ",") {
		switch kind, _, _ := mime.ParseMediaType(part); kind {
		case csvType:
			return true, nil
		case "application/json":
			return false, nil
		}
	}
	return false, nil
}

// writeUsageCSV answers with rows as CSV (RFC 4180). A sandbox's or tenant's name
// cannot begin as a formula of a spreadsheet does.
func writeUsageCSV(w http.ResponseWriter, rows []store.UsageRow) error {
	w.Header().Set("Content-Type", csvType+"; charset=utf-8; header=present")
	w.Header().Set("Cache-Control", "no-store")
	out := csv.NewWriter(w)
	number := func(f float64) string { return strconv.FormatFloat(f, 'f', -1, 64) }
	_ = out.Write([]string{"day", "tenant", "sandbox", "sandboxes", "seconds", "cpu_seconds", "gb_seconds", "egress_bytes", "ingress_bytes", "cost"})
	for _, u := range rows {
		_ = out.Write([]string{
			u.Day, u.Tenant, u.Sandbox, strconv.FormatInt(u.Sandboxes, 10), number(u.Seconds), number(u.CPUSeconds), number(u.GBSeconds),
			strconv.FormatInt(u.EgressBytes, 10), strconv.FormatInt(u.IngressBytes, 10), number(u.Cost),
		})
	}
	out.Flush()
	return nil // an error of the writer is that the client is gone
}
