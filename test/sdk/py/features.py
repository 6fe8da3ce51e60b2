"""What the Python SDKs can do, one function a feature. A function raises when
the feature does not work, and returns a string when this version lacks it."""

import base64
import time

import e2b

try:
    import e2b_code_interpreter as ci
except ImportError:
    ci = None

TEMPLATE = "base"


class Made:
    """The sandboxes a feature made, so that they end with it."""

    def __init__(self):
        self.ids = []

    def core(self, *args, **kwargs):
        sandbox = e2b.Sandbox.create(*(args or (TEMPLATE,)), **kwargs)
        self.ids.append(sandbox.sandbox_id)
        return sandbox

    def interpreter(self, **kwargs):
        sandbox = ci.Sandbox.create(**kwargs)
        self.ids.append(sandbox.sandbox_id)
        return sandbox

    async def asynchronous(self, **kwargs):
        sandbox = await e2b.AsyncSandbox.create(TEMPLATE, **kwargs)
        self.ids.append(sandbox.sandbox_id)
        return sandbox

    def kill(self):
        for sandbox_id in self.ids:
            try:
                e2b.Sandbox.kill(sandbox_id)
            except Exception:  # noqa: BLE001 - it may have ended by itself
                pass


async def closing(test, made):
    return await test(made)


def raises(kind, call, *args, **kwargs):
    try:
        call(*args, **kwargs)
    except kind as e:
        return e
    raise AssertionError(f"{kind} was not raised")


def until(what, probe, seconds=10):
    end = time.monotonic() + seconds
    while True:
        got = probe()
        if got:
            return got
        if time.monotonic() > end:
            raise AssertionError(f"{what} did not come about within {seconds} s")
        time.sleep(0.05)


def create_and_kill(made):
    s = made.core()
    assert s.is_running()
    assert s.kill() is True
    assert not s.is_running()
    assert e2b.Sandbox.kill(s.sandbox_id) is False


def info_and_list(made):
    mark = str(time.time())
    s = made.core(metadata={"mark": mark, "a b": "c&d"}, timeout=90)
    info = s.get_info()
    assert info.metadata == {"mark": mark, "a b": "c&d"}, info.metadata
    pages = e2b.Sandbox.list(query=e2b.SandboxQuery(metadata={"mark": mark, "a b": "c&d"}))
    found = pages.next_items()
    assert [i.sandbox_id for i in found] == [s.sandbox_id], found
    assert not pages.has_next


def connect(made):
    s = made.core()
    s.files.write("here.txt", "same box")
    again = e2b.Sandbox.connect(s.sandbox_id)
    assert again.files.read("here.txt") == "same box"
    raises(e2b.NotFoundException, e2b.Sandbox.connect, "i00000000000000000000")


def expiry(made):
    s = made.core()
    s.set_timeout(1)
    until("expiry", lambda: not s.is_running())


def metrics(made):
    s = made.core()
    m = until("metrics", s.get_metrics)[-1]
    assert m.mem_total > 0 and m.disk_total > 0, m


def commands(made):
    s = made.core(envs={"GLOBAL": "g"})
    r = s.commands.run("echo out $GLOBAL $OWN; echo err >&2", envs={"OWN": "o"})
    assert (r.stdout, r.stderr, r.exit_code) == ("out g o\n", "err\n", 0), r
    e = raises(e2b.CommandExitException, s.commands.run, "exit 3")
    assert e.exit_code == 3
    assert s.commands.run("whoami", user="root").stdout == "root\n"
    assert s.commands.run("pwd", cwd="/tmp").stdout == "/tmp\n"
    raises(e2b.TimeoutException, s.commands.run, "sleep 60", timeout=1)


def streaming(made):
    s = made.core()
    times = []
    s.commands.run("for i in 1 2 3; do echo $i; sleep 0.3; done", on_stdout=lambda _: times.append(time.monotonic()))
    assert len(times) == 3 and times[2] - times[0] > 0.4, times


def background(made):
    s = made.core()
    h = s.commands.run("sleep 600", background=True)
    assert any(p.pid == h.pid for p in s.commands.list())
    assert h.kill() is True
    raises(e2b.CommandExitException, h.wait)
    assert s.commands.kill(h.pid) is False
    h = s.commands.run("sleep 1; echo late", background=True)
    h.disconnect()
    assert s.commands.connect(h.pid).wait().stdout == "late\n"


def stdin(made):
    s = made.core()
    h = s.commands.run('read a; echo "got $a"', background=True, stdin=True)
    s.commands.send_stdin(h.pid, "hello\n")
    assert h.wait().stdout == "got hello\n"


def files(made):
    s = made.core()
    info = s.files.write("dir/a.txt", "häuser")
    assert info.path == "/home/user/dir/a.txt", info
    assert s.files.read("dir/a.txt") == "häuser"
    data = bytes(range(256)) * 300
    s.files.write("bin", data)
    assert bytes(s.files.read("bin", format="bytes")) == data
    s.files.write("empty", "")
    assert s.files.read("empty") == ""
    assert s.files.make_dir("d/e") is True
    assert s.files.make_dir("d/e") is False
    assert [e.name for e in s.files.list("d")] == ["e"]
    assert s.files.rename("dir/a.txt", "d/b.txt").path == "/home/user/d/b.txt"
    assert s.files.exists("d/b.txt") and not s.files.exists("dir/a.txt")
    s.files.remove("d")
    assert not s.files.exists("d")
    raises(e2b.NotFoundException, s.files.read, "none")


def watch(made):
    s = made.core()
    s.files.make_dir("w/deep")
    h = s.files.watch_dir("w", recursive=True)
    s.files.write("w/deep/new.txt", "x")
    seen = []

    def look():
        seen.extend(h.get_new_events())
        return any(e.name == "deep/new.txt" for e in seen)

    until("an event", look)
    h.stop()


def pty(made):
    s = made.core()
    out = bytearray()
    h = s.pty.create(e2b.PtySize(rows=24, cols=80))
    s.pty.send_stdin(h.pid, b"stty size; exit\n")
    h.wait(on_pty=out.extend)
    assert b"24 80" in out, bytes(out)


def errors(made):
    raises(e2b.AuthenticationException, e2b.Sandbox.create, TEMPLATE, api_key="e2b_" + "0" * 40)
    raises(Exception, e2b.Sandbox.create, "no-such-template")
    s = made.core()
    raises(Exception, s.commands.run, "pwd", cwd="/nowhere")
    assert s.commands.run("echo alive").stdout == "alive\n"


async def async_commands(made):
    s = await made.asynchronous()
    r = await s.commands.run("echo hi")
    assert r.stdout == "hi\n", r
    lines = []
    h = await s.commands.run("for i in 1 2; do echo $i; done", background=True, on_stdout=lines.append)
    await h.wait()
    assert "".join(lines) == "1\n2\n", lines


async def async_files(made):
    s = await made.asynchronous()
    await s.files.write("a", "1")
    assert await s.files.read("a") == "1"
    events = []
    h = await s.files.watch_dir("/home/user", on_event=events.append)
    await s.files.write("b", "2")
    for _ in range(200):
        if any(e.name == "b" for e in events):
            break
        import asyncio

        await asyncio.sleep(0.05)
    assert any(e.name == "b" for e in events), events
    await h.stop()


def run_code(made):
    s = made.interpreter()
    e = s.run_code("import sys\nprint('out')\nprint('err', file=sys.stderr)\n1 + 1")
    assert e.text == "2", e
    assert "".join(e.logs.stdout) == "out\n"
    assert "".join(e.logs.stderr) == "err\n"
    s.run_code("x = 41")
    assert s.run_code("x + 1").text == "42"


def run_error(made):
    s = made.interpreter()
    e = s.run_code("1 / 0")
    assert e.error.name == "ZeroDivisionError", e.error
    assert "division by zero" in e.error.traceback


def run_chart(made):
    s = made.interpreter()
    e = s.run_code("import matplotlib.pyplot as plt\nplt.bar(['a', 'b'], [1, 2])\nplt.title('T')\nplt.show()")
    r = e.results[0]
    assert base64.b64decode(r.png)[1:4] == b"PNG"
    assert getattr(r.chart.type, "value", r.chart.type) == "bar", r.chart
    assert r.chart.title == "T"


def run_frame(made):
    s = made.interpreter()
    e = s.run_code("import pandas as pd\npd.DataFrame({'a': [1, 2]})")
    assert "<table" in e.results[0].html
    assert e.results[0].data == {"a": [1, 2]}, e.results[0].data


def run_contexts(made):
    s = made.interpreter()
    c = s.create_code_context(cwd="/tmp")
    assert s.run_code("import os; os.getcwd()", context=c).text == "/tmp"


def run_languages(made):
    s = made.interpreter()
    assert "from 42" in "".join(s.run_code('echo "from $((40 + 2))"', language="bash").logs.stdout)
    assert "2" in s.run_code("[1, 2].length", language="js").text


def run_stream(made):
    s = made.interpreter()
    times = []
    s.run_code("import time\nfor i in range(3):\n    print(i, flush=True)\n    time.sleep(0.3)", on_stdout=lambda _: times.append(time.monotonic()))
    assert len(times) >= 3 and times[-1] - times[0] > 0.4, times


FEATURES = {
    "core": {
        "sandbox: create and kill": create_and_kill,
        "sandbox: info, list with filter": info_and_list,
        "sandbox: connect from elsewhere": connect,
        "sandbox: set timeout, expiry": expiry,
        "sandbox: metrics": metrics,
        "sandbox: errors": errors,
        "commands: output, exit code, user, cwd, timeout": commands,
        "commands: streaming": streaming,
        "commands: background, list, kill, connect": background,
        "commands: standard input": stdin,
        "files: all calls": files,
        "files: watch, recursive": watch,
        "terminal: input and output": pty,
    },
    "async": {
        "commands": async_commands,
        "files and watch": async_files,
    },
    "interpreter": {
        "code: result, logs, state": run_code,
        "code: error with traceback": run_error,
        "code: matplotlib picture and chart": run_chart,
        "code: pandas table": run_frame,
        "code: contexts": run_contexts,
        "code: Bash, JavaScript": run_languages,
        "code: streaming": run_stream,
    },
}
