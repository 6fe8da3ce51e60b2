package template

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"

	"github.com/bulkheadhq/bulkhead"
)

// dpkgOptions keep out of the image what nobody reads in a box. Packages that
// are installed in the box later are treated likewise.
// They need no flushing to disk either, in a build or in a box.
var dpkgOptions = []string{
	"force-unsafe-io",
	"path-exclude=/usr/share/man/*", "path-exclude=/usr/share/info/*", "path-exclude=/usr/share/lintian/*",
	"path-exclude=/usr/share/doc/*", "path-include=/usr/share/doc/*/copyright",
	"path-exclude=/usr/share/locale/*", "path-include=/usr/share/locale/locale.alias",
}

// imageAptConf stays in the image: it keeps apt-get lean there.
const imageAptConf = `APT::Install-Recommends "false";
Acquire::Languages "none";
Dir::Cache::pkgcache "";
Dir::Cache::srcpkgcache "";
`

// buildAptConf is for the time of the build only.
const buildAptConf = `APT::Sandbox::User "root";
Acquire::Languages "none";
Dir::Cache::pkgcache "";
Dir::Cache::srcpkgcache "";
Dpkg::Use-Pty "0";
Dpkg::Options { "--force-confdef"; "--force-confold"; };
`

// hostAptOptions begin the options of the host's apt that say how to reach an archive.
var hostAptOptions = []string{
	"Acquire::http::Proxy ", "Acquire::http::Proxy::", "Acquire::https::Proxy ", "Acquire::https::Proxy::",
	"Acquire::Check-Valid-Until ", "Acquire::Check-Date ", "Acquire::Retries ", "Acquire::ForceIPv",
}

func (w *work) aptConf() string { return filepath.Join(w.dir, "apt.conf") }

// writeAptConf writes the configuration of apt for the scripts of this build.
func (w *work) writeAptConf() error {
	text := buildAptConf + strings.Join(hostApt(), "\n") + "\n"
	if w.build.cfg.CABundle != "" {
		text += `Acquire::https::CAInfo "/run/bulkhead/ca.crt";` + "\n"
	}
	if err := os.WriteFile(w.aptConf(), []byte(text), 0o600); err != nil {
		return fmt.Errorf("configure apt: %w", err)
	}
	return nil
}

// hostApt returns the host's options for reaching an archive; none where the
// host has no apt.
func hostApt() []string {
	path, err := lookPath("apt-config")
	if err != nil {
		return nil
	}
	out, err := exec.Command(path, "dump", "--no-empty").Output() //nolint:gosec,noctx // a tool of the host that reads its files
	if err != nil {
		return nil
	}
	var options []string
	for line := range bytes.Lines(out) {
		option := strings.TrimSpace(string(line))
		for _, prefix := range hostAptOptions {
			if strings.HasPrefix(option, prefix) {
				options = append(options, option)
			}
		}
	}
	return options
}

// bootstrap makes a minimal Debian.
func (w *work) bootstrap(ctx context.Context) error {
	keyring := w.build.cfg.Keyring
	if _, err := os.Stat(keyring); err != nil {
		return bulkhead.Errorf(bulkhead.CodeUnsupported,
			"the keyring %s is not there (Debian and Ubuntu: apt-get install debian-archive-keyring)", keyring)
	}
	// In a file, since it may hold a proxy's password.
	conf := filepath.Join(w.dir, "bootstrap.conf")
	if err := os.WriteFile(conf, []byte(imageAptConf+strings.Join(hostApt(), "\n")+"\n"), 0o600); err != nil {
		return fmt.Errorf("configure apt: %w", err)
	}
	archives := w.cache("apt", "archives")
	argv := []string{
		"mmdebstrap", "--mode=root", "--variant=apt", "--format=directory", "--verbose",
		"--keyring=" + keyring, "--aptopt=" + conf,
		"--skip=essential/unlink,cleanup/apt/cache",
		"--setup-hook=mkdir -p \"$1/var/cache/apt/archives\" && mount --bind " + quote(archives) + " \"$1/var/cache/apt/archives\"",
		"--customize-hook=umount \"$1/var/cache/apt/archives\"",
	}
	for _, o := range dpkgOptions {
		argv = append(argv, "--dpkgopt="+o)
	}
	argv = append(argv, w.recipe.From.Debian, w.root)
	if err := w.host(ctx, append(argv, w.sources()...)...); err != nil {
		return err
	}
	// mmdebstrap's file has the host's options too; they are not for the box.
	dir := filepath.Join(w.root, "etc/apt/apt.conf.d")
	if err := os.Remove(filepath.Join(dir, "99mmdebstrap")); err != nil {
		return fmt.Errorf("configure apt in the image: %w", err)
	}
	if err := os.WriteFile(filepath.Join(dir, "90bulkhead"), []byte(imageAptConf), 0o644); err != nil { //nolint:gosec // apt runs as any user
		return fmt.Errorf("configure apt in the image: %w", err)
	}
	w.env["LANG"] = "C.UTF-8"
	return nil
}

// sources are the lines of sources.list.
func (w *work) sources() []string {
	suite, mirror := w.recipe.From.Debian, w.build.cfg.Mirror
	lines := []string{fmt.Sprintf("deb %s %s main", mirror, suite)}
	if suite == "sid" || suite == "unstable" {
		return lines
	}
	return append(lines, fmt.Sprintf("deb %s %s-updates main", mirror, suite),
		fmt.Sprintf("deb %s %s-security main", w.build.cfg.SecurityMirror, suite))
}

// quote makes s one word for the shell.
func quote(s string) string { return "'" + strings.ReplaceAll(s, "'", `'\''`) + "'" }
