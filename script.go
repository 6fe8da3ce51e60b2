package bulkhead

import "time"

// Script is a stored program. Its versions do not change.
type Script struct {
	// Name is the tenant's own name for it: 1 to 63 of a-z, 0-9, '.', '_' and '-'.
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
