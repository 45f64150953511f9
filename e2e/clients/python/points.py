"""Runs the points of a test program in order, and prints if each passes or fails.

A later point may use the results of an earlier one.
"""

import sys
import traceback

_POINTS = []


def point(name):
    """Registers a function as a point. It fails if it raises an exception."""

    def register(function):
        _POINTS.append((name, function))
        return function

    return register


def absent(name, text):
    """Registers a function that must fail with 501 and a message that contains `text`."""

    def register(function):
        def refused():
            try:
                function()
            except Exception as error:  # Each API has its own classes.
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
    """Runs all points, and exits with 1 if one failed."""
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
