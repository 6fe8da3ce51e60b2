package template

import (
	"crypto/sha256"
	"encoding/base32"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"regexp"
	"strings"
)

// builderVersion is part of every digest: it goes up when the same recipe would
// give another image.
const builderVersion = 1

// ID returns the stable identifier of the template with the given name: 20
// characters of [a-z0-9].
func ID(name string) string {
	sum := sha256.Sum256([]byte("bulkhead template " + name))
	return strings.ToLower(base32.HexEncoding.EncodeToString(sum[:]))[:20]
}

var digestSyntax = regexp.MustCompile(`^sha256:[0-9a-f]{64}$`)

// resolved is what a digest is over: the recipe, and by content what it names.
type resolved struct {
	Builder int    `json:"builder"`
	Recipe  Recipe `json:"recipe"`
	// Base is the digest of the parent template or of the image's manifest.
	Base string `json:"base,omitempty"`
	// Layers are the digests of the layer files.
	Layers []string `json:"layers,omitempty"`
	// Build tells a forced build from the one before; empty otherwise.
	Build string `json:"build,omitempty"`
}

func (r resolved) digest() string {
	r.Builder = builderVersion
	r.Recipe.From.Archive = "" // Base stands for it, wherever the file lies
	b, err := json.Marshal(r)
	if err != nil {
		panic(fmt.Sprintf("template: a recipe is plain data: %v", err))
	}
	sum := sha256.Sum256(b)
	return "sha256:" + hex.EncodeToString(sum[:])
}

// fileDigest returns the digest of a file's content.
func fileDigest(path string) (string, error) {
	f, err := os.Open(path)
	if err != nil {
		return "", fmt.Errorf("open: %w", err)
	}
	defer f.Close() //nolint:errcheck // opened for reading
	h := sha256.New()
	if _, err := io.Copy(h, f); err != nil {
		return "", fmt.Errorf("read: %w", err)
	}
	return "sha256:" + hex.EncodeToString(h.Sum(nil)), nil
}
