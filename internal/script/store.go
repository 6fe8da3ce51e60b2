package script

import (
	"context"
	"encoding/json"
	"regexp"

	"github.com/bulkheadhq/bulkhead"
)

// MaxSource is the length of a source text, in bytes.
const MaxSource = 1 << 20

// Store keeps scripts. A write that returned nil is kept. Errors that are the
// tenant's are *bulkhead.Error. Package store has it, and its bounds.
type Store interface {
	// PutScript stores a new version and returns it. A text that is the same as
	// the newest version's is not stored again. [bulkhead.CodeQuotaExceeded].
	PutScript(ctx context.Context, tenant string, s bulkhead.Script) (bulkhead.Script, error)
	// Script returns a version, 0 for the newest. [bulkhead.CodeNotFound].
	Script(ctx context.Context, tenant, name string, version int) (bulkhead.Script, error)
	// Scripts returns the newest version of each script by name, without text.
	Scripts(ctx context.Context, tenant string) ([]bulkhead.Script, error)
	// DeleteScript removes every version. [bulkhead.CodeNotFound].
	DeleteScript(ctx context.Context, tenant, name string) error
}

// KeyValue keeps each tenant's small values. Errors that are the tenant's are
// *bulkhead.Error: [bulkhead.CodeInvalid], [bulkhead.CodeTooLarge] and
// [bulkhead.CodeQuotaExceeded].
type KeyValue interface {
	// Value returns a value, nil when there is none.
	Value(ctx context.Context, tenant, key string) (json.RawMessage, error)
	// SetValue stores a value.
	SetValue(ctx context.Context, tenant, key string, value json.RawMessage) error
	// DeleteValue removes a value and reports whether there was one.
	DeleteValue(ctx context.Context, tenant, key string) (bool, error)
	// Keys returns the keys that begin with prefix, sorted.
	Keys(ctx context.Context, tenant, prefix string) ([]string, error)
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
