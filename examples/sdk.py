"""E2B's Python SDK against a Bulkhead server: set E2B_API_URL, E2B_SANDBOX_URL
and E2B_API_KEY, and nothing else changes. usage: python sdk.py FOLDER"""

import base64
import pathlib
import sys
import time

from e2b_code_interpreter import Sandbox

out = pathlib.Path(sys.argv[1] if len(sys.argv) > 1 else ".")

began = time.perf_counter()
with Sandbox.create() as sandbox:
    first = sandbox.run_code("print('hello from', __import__('os').uname().sysname); 6 * 7")
    print(f"result {first.text!r}, printed {first.logs.stdout}, {time.perf_counter() - began:.3f} s after create")

    broken = sandbox.run_code("{}['missing']")
    print(f"error  {broken.error.name}: {broken.error.value}")
    print(broken.error.traceback.splitlines()[-1])

    drawn = sandbox.run_code(pathlib.Path(__file__).with_name("chart.py").read_text())
    for n, result in enumerate(drawn.results):
        if result.png:
            path = out / f"sdk-chart-{n}.png"
            path.write_bytes(base64.b64decode(result.png))
            print(f"chart  {result.chart.title!r} ({result.chart.type.value}) in {path}")
        elif result.text:
            print(result.text)

    files = sandbox.files
    files.write("notes/today.txt", "files work, too")
    print("file  ", files.read("notes/today.txt"), [e.path for e in files.list("notes")])
    print("shell ", sandbox.commands.run("whoami && python3 --version").stdout.split())
