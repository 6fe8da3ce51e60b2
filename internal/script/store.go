package script

import (
	"context"
	"encoding/json"
	"regexp"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/bulkheadhq/bulkhead"
)

// Bounds of what is stored for one tenant.
const (
	// MaxSource is the length of a source text, in bytes.
	MaxSource = 1 << 20
	// MaxScripts is how many scripts a tenant may have, MaxVersions how many
	// versions of one are kept; older ones go.
	MaxScripts  = 1000
	MaxVersions = 100
	// MaxKeys, MaxKey, MaxValue and MaxTotal bound the tenant's key-value store:
	// keys, and the bytes of a key, of a value and of all together.
	MaxKeys  = 10_000
	MaxKey   = 512
	MaxValue = 256 << 10
	MaxTotal = 16 << 20
)

// Script is a stored program. Versions do not change.
type Script struct {
	// Name is the tenant's own name for it; see [ValidateName].
	Name string `json:"name"`
	// Version counts from 1.
	Version int `json:"version"`
	// Language is "javascript" or "typescript".
	Language string `json:"language"`
	// Source is the text; lists leave it out.
	Source string `json:"source,omitempty"`
	// Fingerprint is the SHA-256 of the text.
	Fingerprint string `json:"fingerprint"`
	// SizeBytes is the length of the text.
	SizeBytes int64 `json:"sizeBytes"`
	// CreatedAt is when the version was stored.
	CreatedAt time.Time `json:"createdAt"`
}

// Store keeps scripts. A write that returned nil is kept. Errors that are the
// tenant's are *bulkhead.Error.
type Store interface {
	// PutScript stores a new version and returns it. A text that is the same as
	// the newest version's is not stored again. [bulkhead.CodeQuotaExceeded]
	// when the tenant has MaxScripts.
	PutScript(ctx context.Context, tenant string, s Script) (Script, error)
	// Script returns a version, 0 for the newest. [bulkhead.CodeNotFound].
	Script(ctx context.Context, tenant, name string, version int) (Script, error)
	// Scripts returns the newest version of each script by name, without text.
	Scripts(ctx context.Context, tenant string) ([]Script, error)
	// DeleteScript removes every version. [bulkhead.CodeNotFound].
	DeleteScript(ctx context.Context, tenant, name string) error
}

// KeyValue keeps each tenant's small values. Errors that are the tenant's are
// *bulkhead.Error: [bulkhead.CodeTooLarge] and [bulkhead.CodeQuotaExceeded].
type KeyValue interface {
	// Get returns a value, nil when there is none.
	Get(ctx context.Context, tenant, key string) (json.RawMessage, error)
	// Set stores a value.
	Set(ctx context.Context, tenant, key string, value json.RawMessage) error
	// Delete removes a value and reports whether there was one.
	Delete(ctx context.Context, tenant, key string) (bool, error)
	// List returns the keys that begin with prefix, sorted, at most MaxKeys.
	List(ctx context.Context, tenant, prefix string) ([]string, error)
}

// scriptName is what a script may be called.
var scriptName = regexp.MustCompile(`^[a-z0-9][a-z0-9._-]{0,62}$`)

// ValidateName checks a script's name: 1 to 63 of a-z, 0-9, dot, underscore and
// hyphen, beginning with a letter or digit, and not "run" or "stats".
func ValidateName(name string) error {
	if !scriptName.MatchString(name) || name == "run" || name == "stats" {
		return bulkhead.Errorf(bulkhead.CodeInvalid,
			"the name is %.80q; it must be 1 to 63 of a-z, 0-9, '.', '_' and '-', begin with a letter or digit, and not be run or stats", name)
	}
	return nil
}

// validateEntry checks a key and a value of the key-value store.
func validateEntry(key string, value json.RawMessage) error {
	if key == "" || len(key) > MaxKey {
		return bulkhead.Errorf(bulkhead.CodeInvalid, "the key has %d bytes; it must have 1 to %d", len(key), MaxKey)
	}
	if len(value) > MaxValue {
		return bulkhead.Errorf(bulkhead.CodeTooLarge, "the value of %.80q has %d bytes; the limit is %d", key, len(value), MaxValue)
	}
	return nil
}

// errNoScript is what a tenant is told of a script that is not there.
func errNoScript(name string, version int) error {
	if version > 0 {
		return bulkhead.Errorf(bulkhead.CodeNotFound, "there is no version %d of a script %.80q", version, name)
	}
	return bulkhead.Errorf(bulkhead.CodeNotFound, "there is no script %.80q", name)
}

func errTooManyScripts() error {
	return bulkhead.Errorf(bulkhead.CodeQuotaExceeded, "there are %d scripts already; that is the limit", MaxScripts)
}

func errStoreFull() error {
	return bulkhead.Errorf(bulkhead.CodeQuotaExceeded, "the store is full: at most %d keys and %d bytes", MaxKeys, MaxTotal)
}

// Memory keeps everything in memory: for tests, and for a server that is to
// forget.
type Memory struct {
	mu      sync.Mutex
	scripts map[string]map[string][]Script
	values  map[string]map[string]json.RawMessage
}

var (
	_ Store    = (*Memory)(nil)
	_ KeyValue = (*Memory)(nil)
)

// NewMemory returns an empty store.
func NewMemory() *Memory {
	return &Memory{scripts: map[string]map[string][]Script{}, values: map[string]map[string]json.RawMessage{}}
}

// PutScript implements [Store].
func (m *Memory) PutScript(_ context.Context, tenant string, s Script) (Script, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	own := m.scripts[tenant]
	if own == nil {
		own = map[string][]Script{}
		m.scripts[tenant] = own
	}
	versions := own[s.Name]
	if len(versions) == 0 && len(own) >= MaxScripts {
		return Script{}, errTooManyScripts()
	}
	s.Version = 1
	if n := len(versions); n > 0 {
		last := versions[n-1]
		if last.Fingerprint == s.Fingerprint && last.Language == s.Language {
			return last, nil
		}
		s.Version = last.Version + 1
	}
	versions = append(versions, s)
	own[s.Name] = versions[max(0, len(versions)-MaxVersions):]
	return s, nil
}

// Script implements [Store].
func (m *Memory) Script(_ context.Context, tenant, name string, version int) (Script, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	versions := m.scripts[tenant][name]
	for _, s := range slices.Backward(versions) {
		if version == 0 || s.Version == version {
			return s, nil
		}
	}
	return Script{}, errNoScript(name, version)
}

// Scripts implements [Store].
func (m *Memory) Scripts(_ context.Context, tenant string) ([]Script, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	list := []Script{}
	for _, versions := range m.scripts[tenant] {
		s := versions[len(versions)-1]
		s.Source = ""
		list = append(list, s)
	}
	slices.SortFunc(list, func(a, b Script) int { return strings.Compare(a.Name, b.Name) })
	return list, nil
}

// DeleteScript implements [Store].
func (m *Memory) DeleteScript(_ context.Context, tenant, name string) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if len(m.scripts[tenant][name]) == 0 {
		return errNoScript(name, 0)
	}
	delete(m.scripts[tenant], name)
	return nil
}

// Get implements [KeyValue].
func (m *Memory) Get(_ context.Context, tenant, key string) (json.RawMessage, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	return slices.Clone(m.values[tenant][key]), nil
}

// Set implements [KeyValue].
func (m *Memory) Set(_ context.Context, tenant, key string, value json.RawMessage) error {
	if err := validateEntry(key, value); err != nil {
		return err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	own := m.values[tenant]
	if own == nil {
		own = map[string]json.RawMessage{}
		m.values[tenant] = own
	}
	total := len(key) + len(value)
	keys := 1
	for k, v := range own {
		if k != key {
			total += len(k) + len(v)
			keys++
		}
	}
	if keys > MaxKeys || total > MaxTotal {
		return errStoreFull()
	}
	own[key] = slices.Clone(value)
	return nil
}

// Delete implements [KeyValue].
func (m *Memory) Delete(_ context.Context, tenant, key string) (bool, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	_, ok := m.values[tenant][key]
	delete(m.values[tenant], key)
	return ok, nil
}

// List implements [KeyValue].
func (m *Memory) List(_ context.Context, tenant, prefix string) ([]string, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	keys := []string{}
	for k := range m.values[tenant] {
		if strings.HasPrefix(k, prefix) {
			keys = append(keys, k)
		}
	}
	slices.Sort(keys)
	return keys, nil
}
