package template

import (
	"os"
	"os/exec"
	"slices"
	"strings"

	"github.com/bulkheadhq/bulkhead"
)

// hostPath is where the host's own tools are looked for.
const hostPath = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

// caVariables name the file of certificate authorities for one program or other.
var caVariables = []string{
	"SSL_CERT_FILE", "CURL_CA_BUNDLE", "REQUESTS_CA_BUNDLE", "PIP_CERT", "NODE_EXTRA_CA_CERTS",
	"NPM_CONFIG_CAFILE", "GIT_SSL_CAINFO", "DENO_CERT",
}

// buildVariables are the variables, in upper case, that say how to reach proxies
// and package registries.
var buildVariables = []string{
	"HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "NO_PROXY",
	"PIP_INDEX_URL", "PIP_EXTRA_INDEX_URL", "PIP_TRUSTED_HOST", "PIP_PROXY", "PIP_DEFAULT_TIMEOUT", "PIP_RETRIES",
	"UV_INDEX_URL", "UV_DEFAULT_INDEX", "UV_INDEX",
	"NPM_CONFIG_REGISTRY", "NPM_CONFIG_PROXY", "NPM_CONFIG_HTTPS_PROXY", "NPM_CONFIG_NOPROXY",
}

// BuildEnv selects from an environment, such as [os.Environ] gives, what the
// programs of a build need to reach proxies and package registries, for
// [Config.Env].
func BuildEnv(environ []string) []string {
	var out []string
	for _, kv := range environ {
		name, _, _ := strings.Cut(kv, "=")
		if slices.Contains(buildVariables, strings.ToUpper(name)) {
			out = append(out, kv)
		}
	}
	return out
}

// findCABundle returns the host's file of certificate authorities, or "".
func findCABundle() string {
	for _, path := range []string{
		"/etc/ssl/certs/ca-certificates.crt", // Debian, Ubuntu, Arch
		"/etc/pki/tls/certs/ca-bundle.crt",   // Fedora, RHEL
		"/etc/ssl/ca-bundle.pem",             // SUSE
		"/etc/ssl/cert.pem",                  // Alpine
	} {
		if _, err := os.Stat(path); err == nil {
			return path
		}
	}
	return ""
}

// packageOf says which Debian package has a tool that a build needs.
var packageOf = map[string]string{"mmdebstrap": "mmdebstrap", "mkfs.erofs": "erofs-utils"}

// lookPath finds a tool of the host.
func lookPath(tool string) (string, error) {
	if strings.HasPrefix(tool, "/") {
		return tool, nil
	}
	for dir := range strings.SplitSeq(hostPath, ":") {
		if path, err := exec.LookPath(dir + "/" + tool); err == nil {
			return path, nil
		}
	}
	return "", bulkhead.Errorf(bulkhead.CodeUnsupported,
		"%s is not installed on this host (Debian and Ubuntu: apt-get install %s)", tool, packageOf[tool])
}
