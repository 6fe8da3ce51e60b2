package bulkhead

import "time"

// Template is an immutable recipe of a box, named by its digest.
type Template struct {
	// ID is the stable identifier that the E2B API calls templateID: 20
	// characters of [a-z0-9], derived from the name.
	ID string `json:"templateID"`
	// Name is what people say: "base", "code-interpreter-v1".
	Name string `json:"name"`
	// Digest is "sha256:…" over the recipe; the same recipe has the same digest.
	Digest string `json:"digest"`
	// Image is the absolute path of the root filesystem image on this node.
	Image string `json:"-"`
	// SizeBytes is the size of the image.
	SizeBytes int64 `json:"sizeBytes"`
	// CreatedAt is when the build ended.
	CreatedAt time.Time `json:"createdAt"`
	// Defaults are the limits of a sandbox that asks for none. No field is zero.
	Defaults Limits `json:"defaults"`
	// Env is set in every process of the box.
	Env map[string]string `json:"env,omitempty"`
	// User is the default user, "user" unless the recipe says otherwise.
	User string `json:"user"`
	// Workdir is the default working directory; empty means the user's home.
	Workdir string `json:"workdir,omitempty"`
	// Interpreter says whether the box serves /execute on port 49999.
	Interpreter bool `json:"interpreter"`
	// Preload is the Python code that warms the interpreter before a snapshot.
	Preload []string `json:"preload,omitempty"`
	// Warmup is code that runs before a snapshot, after the imports: Python in the
	// interpreter's first context, whose names stay there, or a script for /bin/sh
	// where there is no interpreter. If it fails there are no boxes.
	Warmup string `json:"warmup,omitempty"`
}
