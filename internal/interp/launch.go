package interp

import (
	"context"
	"fmt"
	"maps"
	"os"
	"path/filepath"
)

// env returns the environment of a kernel that starts now.
func (s *Server) env() map[string]string {
	env := map[string]string{
		"SHELL": "/bin/bash",
		// Figures are shown where the code runs; nobody looks for a screen.
		"MPLBACKEND": "module://matplotlib_inline.backend_inline",
		// A figure and a small page by itself, not one for all and megabytes of script.
		"PLOTLY_RENDERER": "plotly_mimetype+sphinx_gallery",
	}
	maps.Copy(env, s.cfg.Env())
	maps.Copy(env, s.lease.Load().env)
	env["HOME"], env["USER"], env["LOGNAME"] = s.account.home, s.account.name, s.account.name
	return env
}

// python returns the interpreter of the lean lane, as a path if it can be found.
func (s *Server) python(env map[string]string) string {
	if path, err := lookPath(s.cfg.Python, env["PATH"]); err == nil {
		return path
	}
	return s.cfg.Python
}

func (s *Server) specDirs(env map[string]string) []string {
	return specDirs(s.account.home, s.python(env), env)
}

// startKernel starts the kernel of a session, and returns the lease that it was
// started under.
func (s *Server) startKernel(ctx context.Context, sess *session) (Kernel, *lease, error) {
	ctx, cancel := context.WithTimeoutCause(ctx, s.cfg.StartTimeout,
		fmt.Errorf("not ready after %s", s.cfg.StartTimeout))
	defer cancel()
	began := s.lease.Load()
	env := s.env()
	var (
		k   Kernel
		err error
	)
	switch sess.language {
	case python:
		k, err = s.startLean(ctx, sess, env, ipython{python: s.python(env), program: s.program()})
	case shell:
		k, err = s.startLean(ctx, sess, env, &bash{vars: variables{lang: languages[shell], base: env}})
	default:
		k, err = s.startOther(ctx, sess, env)
	}
	return k, began, err
}

func (s *Server) startLean(ctx context.Context, sess *session, env map[string]string, lang leanLanguage) (Kernel, error) {
	k, err := startLean(ctx, leanConfig{
		account: s.account, lang: lang, dir: sess.cwd, env: env, preload: sess.preload, warmup: sess.warmup,
		limit: int(s.cfg.MaxMessageBytes), grace: s.cfg.InterruptGrace, log: s.cfg.Log,
	})
	if err != nil {
		return nil, err // not k: a nil pointer is no nil Kernel
	}
	sess.preload, sess.warmup = nil, "" // a kernel that replaces this one has to be there soon
	return k, nil
}

func (s *Server) startOther(ctx context.Context, sess *session, env map[string]string) (Kernel, error) {
	if err := s.known(sess.language); err != nil {
		return nil, err
	}
	spec, _, _ := findSpec(s.specDirs(env), sess.language)
	scratch, err := os.MkdirTemp(s.cfg.Dir, "k")
	if err != nil {
		return nil, fmt.Errorf("make directory of kernel: %w", err)
	}
	if err := os.Chown(scratch, s.account.uid, s.account.gid); err != nil {
		return nil, fmt.Errorf("make directory of kernel: %w", err)
	}
	k, err := startJupyter(ctx, jupyterConfig{
		account: s.account, spec: spec, lang: languages[sess.language], dir: sess.cwd,
		scratch: filepath.Clean(scratch), env: env, limit: s.cfg.MaxMessageBytes,
		grace: s.cfg.InterruptGrace, log: s.cfg.Log,
	})
	if err != nil {
		return nil, err
	}
	return k, nil
}
