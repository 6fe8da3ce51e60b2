"""Runs the features of one published E2B Python SDK against a Bulkhead server
and prints one JSON line for each: {"feature","ok","error","ms"}.

usage: python run.py MODE, where MODE is core, async or interpreter.
"""

import asyncio
import inspect
import json
import os
import sys
import time
import traceback

import features


def main() -> None:
    mode = sys.argv[1]
    only = os.environ.get("BULKHEAD_TEST_FEATURE", "")
    for name, test in features.FEATURES[mode].items():
        if only not in name:
            continue
        began = time.monotonic()
        result = {"feature": name, "ok": True}
        made = features.Made()
        try:
            if inspect.iscoroutinefunction(test):
                skip = asyncio.run(asyncio.wait_for(features.closing(test, made), 60))
            else:
                skip = test(made)
            if isinstance(skip, str):
                result["skip"] = skip
        except BaseException:  # noqa: BLE001 - every failure is a row
            result["ok"] = False
            result["error"] = traceback.format_exc()[-2000:]
        made.kill()
        result["ms"] = round((time.monotonic() - began) * 1000)
        print(json.dumps(result), flush=True)


if __name__ == "__main__":
    main()
    os._exit(0)  # whatever threads the SDK left
