package api

import (
	"crypto/sha256"
	"encoding/base64"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/google/uuid"

	"github.com/bulkheadhq/bulkhead"
	"github.com/bulkheadhq/bulkhead/internal/boxrpc"
)

// wireTemplate is E2B's Template.
type wireTemplate struct {
	TemplateID    string     `json:"templateID"`
	BuildID       string     `json:"buildID"`
	Names         []string   `json:"names"`
	Aliases       []string   `json:"aliases"`
	Public        bool       `json:"public"`
	CPUCount      int        `json:"cpuCount"`
	MemoryMB      int64      `json:"memoryMB"`
	DiskSizeMB    int64      `json:"diskSizeMB"`
	CreatedAt     time.Time  `json:"createdAt"`
	UpdatedAt     time.Time  `json:"updatedAt"`
	CreatedBy     *struct{}  `json:"createdBy"`
	LastSpawnedAt *time.Time `json:"lastSpawnedAt"`
	SpawnCount    int        `json:"spawnCount"`
	BuildCount    int        `json:"buildCount"`
	BuildStatus   string     `json:"buildStatus"`
	EnvdVersion   string     `json:"envdVersion"`
}

// wireBuild is E2B's TemplateBuild.
type wireBuild struct {
	BuildID     string    `json:"buildID"`
	Status      string    `json:"status"`
	CreatedAt   time.Time `json:"createdAt"`
	UpdatedAt   time.Time `json:"updatedAt"`
	FinishedAt  time.Time `json:"finishedAt"`
	CPUCount    int       `json:"cpuCount"`
	MemoryMB    int64     `json:"memoryMB"`
	DiskSizeMB  int64     `json:"diskSizeMB"`
	EnvdVersion string    `json:"envdVersion"`
}

// templateDetail is E2B's TemplateWithBuilds.
type templateDetail struct {
	TemplateID    string      `json:"templateID"`
	Names         []string    `json:"names"`
	Aliases       []string    `json:"aliases"`
	Public        bool        `json:"public"`
	CreatedAt     time.Time   `json:"createdAt"`
	UpdatedAt     time.Time   `json:"updatedAt"`
	LastSpawnedAt *time.Time  `json:"lastSpawnedAt"`
	SpawnCount    int         `json:"spawnCount"`
	Builds        []wireBuild `json:"builds"`
}

// A template has exactly one build here, named after its digest.
func buildID(t bulkhead.Template) string {
	sum := sha256.Sum256([]byte(t.Digest))
	return uuid.UUID(sum[:16]).String()
}

func wireTemplateOf(t bulkhead.Template) wireTemplate {
	return wireTemplate{
		TemplateID: t.ID, BuildID: buildID(t), Names: []string{t.Name}, Aliases: []string{t.Name}, Public: true,
		CPUCount: cores(t.Defaults.CPU), MemoryMB: t.Defaults.MemoryMB, DiskSizeMB: t.Defaults.DiskMB,
		CreatedAt: t.CreatedAt.UTC(), UpdatedAt: t.CreatedAt.UTC(), BuildCount: 1, BuildStatus: "ready",
		EnvdVersion: boxrpc.EnvdVersion,
	}
}

// sortedTemplates returns all templates by name.
func (s *Server) sortedTemplates(r *http.Request) ([]bulkhead.Template, error) {
	all, err := s.cfg.Templates.List(r.Context())
	if err != nil {
		return nil, err
	}
	slices.SortFunc(all, func(a, b bulkhead.Template) int { return strings.Compare(a.Name, b.Name) })
	return all, nil
}

// listTemplatesV1 serves GET /templates.
func (s *Server) listTemplatesV1(w http.ResponseWriter, r *http.Request, _ caller) error {
	all, err := s.sortedTemplates(r)
	if err != nil {
		return err
	}
	out := make([]wireTemplate, 0, len(all))
	for _, t := range all {
		out = append(out, wireTemplateOf(t))
	}
	writeJSON(w, http.StatusOK, out)
	return nil
}

// listTemplatesV2 serves GET /v2/templates, page by page.
func (s *Server) listTemplatesV2(w http.ResponseWriter, r *http.Request, _ caller) error {
	limit, err := intQuery(r, "limit", pageSize, 1, pageSize)
	if err != nil {
		return err
	}
	after, err := base64.URLEncoding.DecodeString(r.URL.Query().Get("nextToken"))
	if err != nil {
		return bulkhead.Errorf(bulkhead.CodeInvalid, "nextToken is not one of this list")
	}
	all, err := s.sortedTemplates(r)
	if err != nil {
		return err
	}
	out := make([]wireTemplate, 0, min(int(limit), len(all)))
	for _, t := range all {
		if len(after) > 0 && t.Name <= string(after) {
			continue
		}
		if len(out) == int(limit) {
			w.Header().Set("X-Next-Token", base64.URLEncoding.EncodeToString([]byte(out[limit-1].Names[0])))
			break
		}
		out = append(out, wireTemplateOf(t))
	}
	writeJSON(w, http.StatusOK, out)
	return nil
}

// getTemplate serves GET /templates/{id}.
func (s *Server) getTemplate(w http.ResponseWriter, r *http.Request, _ caller) error {
	t, err := s.cfg.Templates.Get(r.Context(), r.PathValue("id"))
	if err != nil {
		return err
	}
	wt := wireTemplateOf(t)
	writeJSON(w, http.StatusOK, templateDetail{
		TemplateID: wt.TemplateID, Names: wt.Names, Aliases: wt.Aliases, Public: wt.Public,
		CreatedAt: wt.CreatedAt, UpdatedAt: wt.UpdatedAt,
		Builds: []wireBuild{{
			BuildID: wt.BuildID, Status: wt.BuildStatus, CreatedAt: wt.CreatedAt, UpdatedAt: wt.UpdatedAt,
			FinishedAt: wt.CreatedAt, CPUCount: wt.CPUCount, MemoryMB: wt.MemoryMB, DiskSizeMB: wt.DiskSizeMB,
			EnvdVersion: wt.EnvdVersion,
		}},
	})
	return nil
}

// getAlias serves GET /templates/aliases/{alias}: does this template exist?
func (s *Server) getAlias(w http.ResponseWriter, r *http.Request, _ caller) error {
	t, err := s.cfg.Templates.Get(r.Context(), r.PathValue("alias"))
	if err != nil {
		return err
	}
	writeJSON(w, http.StatusOK, map[string]any{"templateID": t.ID, "public": true})
	return nil
}
