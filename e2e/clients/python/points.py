"""Points that a program shows, one after another: each is passed or failed, and printed.

A later point may use what an earlier one left.
"""

import sys
import traceback

_POINTS = []


def point(name):
    """Registers a function that fails by raising."""

    def register(function):
        _POINTS.append((name, function))
        return function

    return register


def absent(name, text):
    """Registers a function that must be refused with 501, by a message that holds `text`."""

    def register(function):
        def refused():
            try:
                function()
            except Exception as error:  # Each API has classes of its own.
                code = getattr(error, "code", None)
                code = code() if callable(code) else code
                number = getattr(code, "value", code)
                number = number[0] if isinstance(number, tuple) else number
                assert number in (501, 12), f"refused with {code!r}: {error}"
                assert text in str(error), f"the refusal does not name {text!r}: {error}"
                return
            raise AssertionError("it was not refused")

        _POINTS.append((f"{name} (501)", refused))
        return function

    return register


def run():
    """Runs all points and exits with 1 if one failed."""
    failed = 0
    for name, function in _POINTS:
        try:
            function()
            print(f"PASS {name}", flush=True)
        except Exception as error:
            failed += 1
            text = " ".join(str(error).split())[:300]
            print(f"FAIL {name}: {type(error).__name__}: {text}", flush=True)
            traceback.print_exc(limit=-3)
    sys.exit(1 if failed else 0)
