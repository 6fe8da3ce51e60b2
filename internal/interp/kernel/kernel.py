"""Bulkhead's Python kernel: IPython's InteractiveShell between two pipes.

The server starts this program with three descriptors beside the standard ones:

  3  requests in:  {"op": "start"}, then any number of "run", "touch" and "rebind"
  4  events out:   "ready", then "display", "result", "error" and "done" per run
  5  a byte comes in for each "display" that the server has taken

A message is a length of four bytes, big-endian, and that many bytes of JSON. What
the user's program prints never goes through here: descriptors 1 and 2 are pipes
that the server reads by itself, so output of child processes, C extensions and
threads is caught too. Everything the server reads before a message was written
before it; waiting for the byte keeps what is printed after a display behind it.

IPython does the rest: display hooks, reprs, tracebacks, magics, await.
"""

import asyncio
import base64
import builtins
import functools
import gc
import importlib
import importlib.abc
import importlib.util
import json
import os
import random
import re
import signal
import site
import sys
import threading
import warnings

from IPython.core.autocall import ExitAutocall
from IPython.core.async_helpers import get_asyncio_loop
from IPython.core.displayhook import DisplayHook
from IPython.core.displaypub import DisplayPublisher
from IPython.core.error import StdinNotImplementedError
from IPython.core.formatters import BaseFormatter
from IPython.core.interactiveshell import InteractiveShell
from IPython.display import display
from traitlets import ObjectName, Type, Unicode
from traitlets.config import Config

REQUESTS, EVENTS, TAKEN = 3, 4, 5

# The most values of a list, dict or DataFrame that go out as data beside their
# text: more is of no use in a message, and costs seconds to encode.
MAX_VALUES = 100_000


def plain(value):
    """Turn what JSON does not know into what it does, for json.dumps."""
    if isinstance(value, (bytes, bytearray)):
        return base64.b64encode(value).decode()
    if hasattr(value, "isoformat"):  # dates, times, pandas.Timestamp
        return value.isoformat()
    if hasattr(value, "tolist"):  # numpy arrays and scalars
        return value.tolist()
    raise TypeError(f"{type(value).__name__} has no JSON form")


def plain_or_text(value):
    """Like plain, with the text of what has no JSON form."""
    try:
        return plain(value)
    except TypeError:
        return str(value)


def finite(value, default):
    """Copy value with null for NaN and the infinities, which JSON cannot say."""
    if isinstance(value, float):
        return value if value - value == 0 else None
    if isinstance(value, dict):
        return {k: finite(v, default) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [finite(v, default) for v in value]
    if value is None or isinstance(value, (str, int)):
        return value
    return finite(default(value), default)


def to_json(value, default=plain):
    """Encode value as ASCII JSON that any parser takes."""
    try:
        return json.dumps(value, default=default, allow_nan=False)
    except ValueError:
        return json.dumps(finite(value, default), default=default, allow_nan=False)


class Channel:
    """The pipes to the server. Sending is safe in any thread and is never cut
    short by an interrupt: that would leave half a message in the pipe."""

    def __init__(self):
        self.lock = threading.RLock()
        self.main = threading.get_ident()
        self.buffer = b""
        self.held = []  # messages that leave together with the next one
        self.limit = 1 << 25  # the server takes no longer message
        self.muted = False  # while warming up, and for ever in a forked child
        self.masked = False  # the main thread is sending
        self.pending = False  # an interrupt came meanwhile

    def fill(self, size):
        while len(self.buffer) < size:
            data = os.read(REQUESTS, 1 << 16)
            if not data:
                raise EOFError
            self.buffer += data

    def receive(self):
        self.fill(4)
        end = 4 + int.from_bytes(self.buffer[:4], "big")
        self.fill(end)
        message, self.buffer = self.buffer[4:end], self.buffer[end:]
        return json.loads(message)

    def send(self, text, hold=False):
        if self.muted:
            return
        data = text.encode()
        if len(data) > self.limit:
            data = b'{"ev":"oversize","size":%d}' % len(data)
        in_main = threading.get_ident() == self.main
        if in_main:
            self.masked = True
        try:
            with self.lock:
                self.held.append(len(data).to_bytes(4, "big") + data)
                if not hold:
                    out, self.held = memoryview(b"".join(self.held)), []
                    while out:
                        out = out[os.write(EVENTS, out):]
        finally:
            if in_main:
                self.masked = False
                if self.pending:
                    self.pending = False
                    raise KeyboardInterrupt

    def wait_taken(self):
        if not self.muted:
            os.read(TAKEN, 4096)


class Hook(DisplayHook):
    """Sends the value of a cell's last expression."""

    def write_output_prompt(self):
        pass

    def write_format_data(self, format_dict, md_dict=None):
        self.shell.kernel.result("result", format_dict)

    def log_output(self, format_dict):
        pass  # IPython would keep every picture for ever

    def finish_displayhook(self):
        self._is_active = False


class Publisher(DisplayPublisher):
    """Sends what display() and update_display() are given."""

    def publish(self, data, metadata=None, **kwargs):
        self.shell.kernel.result("display", data)

    def clear_output(self, wait=False):
        pass


class Exit(ExitAutocall):
    """exit and quit end the cell, not the kernel."""

    def __call__(self, code=None):
        raise SystemExit(code)


class Shell(InteractiveShell):
    """IPython's shell with the server as its terminal."""

    displayhook_class = Type(Hook)
    display_pub_class = Type(Publisher)
    kernel = None
    cancelled = False

    def system(self, cmd):
        sys.stdout.flush()
        self.system_raw(cmd)
        importlib.invalidate_caches()  # it may have been pip

    def enable_gui(self, gui=None):
        if gui not in (None, "inline", "agg"):
            raise RuntimeError(f"there is no screen here for {gui!r}: use %matplotlib inline")

    def _showtraceback(self, etype, evalue, stb):
        if self.cancelled and issubclass(etype, asyncio.CancelledError):
            etype, evalue, stb = KeyboardInterrupt, "", ["KeyboardInterrupt"]
        self.kernel.error(etype.__name__, evalue, "\n".join(stb))

    def show_usage_error(self, exc):
        self.kernel.error("UsageError", exc, f"UsageError: {exc}")

    def run_async(self, coroutine):
        """Run a cell that awaits. An interrupt cancels it, so that nothing of it
        goes on when the next such cell runs the loop."""
        loop = get_asyncio_loop()
        task = loop.create_task(coroutine)
        try:
            return loop.run_until_complete(task)
        except KeyboardInterrupt:
            self.cancelled = True
            task.cancel()
            return loop.run_until_complete(task)
        finally:
            self.cancelled = False


class ChartFormatter(BaseFormatter):
    format_type = Unicode("e2b/chart")
    print_method = ObjectName("_repr_e2b_chart_")
    _return_type = dict

    def pop(self, typ, default=None):
        return default  # IPython clears figures out of all formatters when it sets up its own


class DataFormatter(BaseFormatter):
    format_type = Unicode("e2b/data")
    print_method = ObjectName("_repr_e2b_data_")
    _return_type = dict


def figure_chart(figure):
    """The data that a matplotlib figure was drawn from, in E2B's form."""
    try:
        from e2b_charts import chart_figure_to_dict  # pydantic: only when needed

        return chart_figure_to_dict(figure) or None
    except Exception:
        return None  # not installed, or a kind of figure that it does not know


def frame_data(frame):
    """The columns of a DataFrame, by name."""
    if frame.size > MAX_VALUES:
        return None
    return {str(name): frame.iloc[:, i].tolist() for i, name in enumerate(frame.columns)}


def small(value):
    """A list or dict is its own JSON form, unless it is long."""
    return value if len(value) <= MAX_VALUES else None


class PillowFinder(importlib.abc.MetaPathFinder):
    """Makes pictures that are shown or saved to a file appear, once PIL loads."""

    def find_spec(self, name, path=None, target=None):
        if name != "PIL.Image":
            return None
        sys.meta_path.remove(self)
        spec = importlib.util.find_spec(name)
        load = spec.loader.exec_module

        def exec_module(module):
            load(module)
            self.patch(module.Image)

        spec.loader.exec_module = exec_module
        return spec

    @staticmethod
    def patch(image):
        original = image.save

        @functools.wraps(original)
        def save(self, fp, *args, **kwargs):
            original(self, fp, *args, **kwargs)
            caller = sys._getframe(1).f_globals.get("__name__", "")
            if isinstance(fp, (str, os.PathLike)) and not caller.startswith("matplotlib."):
                display(self)

        image.save = save
        image.show = lambda self, *args, **kwargs: display(self)


def no_input(prompt=""):
    raise StdinNotImplementedError(
        "input() has nobody to ask here: put the value into the code instead"
    )


class Kernel:
    """Runs what the server asks for, one request after the other."""

    def __init__(self):
        self.channel = Channel()
        self.running = False
        self.failed = False
        config = Config()
        config.HistoryManager.enabled = False  # no database, no thread
        config.InteractiveShell.colors = "nocolor"
        config.Completer.use_jedi = False
        self.shell = shell = Shell.instance(config=config)
        shell.kernel = self
        shell.loop_runner = shell.run_async
        shell.user_ns["exit"] = shell.user_ns["quit"] = Exit(shell)
        builtins.input = no_input
        self.add_formats(shell.display_formatter)
        os.register_at_fork(after_in_child=self.leave)

    @staticmethod
    def add_formats(formatter):
        formats = formatter.formatters
        formats["e2b/chart"] = chart = ChartFormatter(parent=formatter)
        formats["e2b/data"] = data = DataFormatter(parent=formatter)
        # By name, so that nothing is imported before it is used.
        chart.for_type_by_name("matplotlib.figure", "Figure", figure_chart)
        for module in ("pandas", "pandas.core.frame"):
            data.for_type_by_name(module, "DataFrame", frame_data)
        for kind in (list, dict):
            formats["application/json"].for_type(kind, small)
        sys.meta_path.insert(0, PillowFinder())

    def leave(self):
        """In a forked child: whatever it does, the server hears only its output."""
        self.channel.muted = True
        null = os.open(os.devnull, os.O_RDWR)
        for fd in (REQUESTS, EVENTS, TAKEN):
            os.dup2(null, fd)
        os.close(null)
        signal.signal(signal.SIGINT, signal.default_int_handler)

    def interrupted(self, signum, frame):
        if self.channel.masked:
            self.channel.pending = self.running
        elif self.running:
            raise KeyboardInterrupt

    def result(self, event, data):
        fields = []
        for mime, value in data.items():
            try:
                text = to_json(value, plain_or_text if mime == "e2b/data" else plain)
            except (TypeError, ValueError, RecursionError):
                continue
            fields.append(f"{json.dumps(mime)}:{text}")
        for stream in (sys.stdout, sys.stderr):
            stream.flush()
        text = '{"ev":"%s","data":{%s}}' % (event, ",".join(fields))
        self.channel.send(text, hold=event == "result")
        if event == "display":
            self.channel.wait_taken()

    def error(self, name, value, traceback):
        self.failed = True
        try:
            value = str(value)
        except Exception as e:
            value = f"<its text cannot be had: {type(e).__name__}>"
        self.channel.send(
            json.dumps({"ev": "error", "name": name, "value": value, "traceback": traceback}),
            hold=True,
        )

    def run(self, code, env):
        before = {name: os.environ.get(name) for name in env}
        os.environ.update(env)
        signal.signal(signal.SIGINT, self.interrupted)
        self.failed = False
        try:
            try:
                self.running = True
                result = self.shell.run_cell(code, store_history=True)
            finally:
                self.running = False
            cause = result.error_before_exec or result.error_in_exec
            if cause is not None and not self.failed:
                self.error(type(cause).__name__, cause, "")
        except BaseException as e:  # the interrupt that came between two others
            self.running = False
            if not self.failed:
                self.error(type(e).__name__, e, "")
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value
        for stream in (sys.stdout, sys.stderr, sys.__stdout__, sys.__stderr__):
            try:
                stream.flush()
            except Exception:
                pass  # the program put something of its own there

    def rebind(self, env, seed):
        """Take on another sandbox's identity: two copies of one snapshot must not
        draw the same random numbers. os.urandom, and with it uuid4 and secrets, is
        the system's and differs anyway; the hash seed of str cannot change."""
        os.environ.update(env)
        if not seed:
            return
        seed = bytes.fromhex(seed)
        random.seed(seed)
        modules = sys.modules
        if "numpy.random" in modules:
            words = [int.from_bytes(seed[i : i + 4], "big") for i in range(0, len(seed), 4)]
            modules["numpy.random"].seed(words)
        if "tempfile" in modules:
            modules["tempfile"]._name_sequence = None
        if "_ssl" in modules:
            modules["_ssl"].RAND_add(seed, float(len(seed)))

    def start(self, preload, warmup, limit):
        """Import ahead, and use once what is slow the first time. The user's names
        stay as they are: a later import of the same is quick, that is all. Then run
        the template's warm-up code, whose names do stay."""
        skipped, failed = [], ""
        self.channel.limit = limit
        self.channel.muted = True
        for entry in preload:
            code = f"import {entry}" if re.fullmatch(r"[\w.]+( as \w+)?", entry) else entry
            try:
                exec(code, {"__name__": "preload"})
            except Exception as e:
                skipped.append({"entry": entry, "error": f"{type(e).__name__}: {e}"})
        if preload:
            self.use_once()
        if warmup:
            result = self.shell.run_cell(warmup, store_history=False)
            cause = result.error_before_exec or result.error_in_exec
            if cause is not None:
                failed = f"{type(cause).__name__}: {cause}"
        self.channel.muted = False
        self.channel.held.clear()
        gc.collect()
        gc.freeze()
        return skipped, failed

    def touch(self):
        """Use what a cell uses. In a copy of a snapshot that has just been restored
        this brings the memory in that the first cell would wait for."""
        self.channel.muted = True
        self.running = True
        try:
            self.shell.run_cell("None", store_history=False)
            self.result("result", self.shell.display_formatter.format(1)[0])
        except KeyboardInterrupt:
            pass
        self.running = False
        self.channel.muted = False

    def use_once(self):
        names = set(self.shell.user_ns)
        for code in ("1/0", "await __import__('asyncio').sleep(0)", "!true"):
            self.shell.run_cell(code, store_history=False)
        for name in set(self.shell.user_ns) - names:
            del self.shell.user_ns[name]
        for name in ("last_type", "last_value", "last_traceback", "last_exc"):
            if hasattr(sys, name):
                delattr(sys, name)
        modules, show = sys.modules, self.shell.display_formatter.format
        self.result("result", show([1])[0])
        if "pandas" in modules:
            show(modules["pandas"].DataFrame({"a": [1]}))
        if "matplotlib.pyplot" in modules:
            plt = modules["matplotlib.pyplot"]
            figure = plt.figure(figsize=(1, 1))
            plt.plot([0, 1])
            plt.title("a")
            show(figure)
            plt.close("all")

    def serve(self):
        while True:
            request = self.channel.receive()
            if request["op"] == "run":
                self.run(request["code"], request.get("env") or {})
                self.channel.send('{"ev":"done","count":%d}' % self.shell.execution_count)
            elif request["op"] == "touch":
                self.touch()
                self.channel.send('{"ev":"done","count":%d}' % self.shell.execution_count)
            elif request["op"] == "rebind":
                self.rebind(request.get("env") or {}, request.get("seed"))
            elif request["op"] == "start":
                skipped, failed = self.start(
                    request.get("preload") or [], request.get("warmup"), request["limit"]
                )
                self.channel.send(json.dumps({"ev": "ready", "skipped": skipped, "failed": failed}))


def main():
    for fd in (REQUESTS, EVENTS, TAKEN):
        os.set_inheritable(fd, False)
    signal.signal(signal.SIGINT, lambda *args: None)
    sys.argv = [""]
    sys.path[0] = ""  # the working directory, as in any notebook
    for stream in (sys.stdout, sys.stderr):
        stream.reconfigure(errors="backslashreplace", line_buffering=True, write_through=False)
    warnings.filterwarnings("ignore", message="To exit: use 'exit'")
    if site.ENABLE_USER_SITE:  # what pip installs for the user must be found at once
        os.makedirs(site.getusersitepackages(), exist_ok=True)
        site.addsitedir(site.getusersitepackages())
    try:
        Kernel().serve()
    except EOFError:
        os._exit(0)  # the server is gone, or this is a child that came back here


main()
