"""Tests of .cargo/mutants.toml. `.ci/mutants --self-test` runs them.

An exception there names code by a pattern. When a function gets another name, its exception has no
effect any more, and nobody notices.
"""

import re
import tomllib
import unittest
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent

GENERICS = re.compile(r"<[^<>=-]*>")
GROUP = r"(?:\((?:\w+\|)*\w+\)|\w+)"
METHOD = re.compile(rf"({GROUP})::({GROUP})")
FUNCTION = re.compile(r"(?:\bin|\breplace|\bdelete match arm \d+ in) (\w+)(?= with|\||$)")
IMPLEMENTATION = re.compile(r"impl (?:\((?:\w+::)*\)\?)?(\w+) for (\w*)")


def alternatives(group):
    """Returns the names of a group, such as (a|b)."""
    return group.strip("()").split("|")


def named(pattern):
    """Returns what a pattern names: types with their functions, and names that stand alone."""
    methods, alone = set(), set()
    for trait, of in IMPLEMENTATION.findall(pattern):
        alone.update(name for name in (trait, of) if name not in ("", "Debug"))
    text = re.sub(r"\(fmt::\)\?|<impl (?:\w+ for )?", "", pattern)
    while GENERICS.search(text):
        text = GENERICS.sub("", text)
    text = text.replace(">::", "::")
    for types, functions in METHOD.findall(text):
        for kind in alternatives(types):
            for function in alternatives(functions):
                if function[0].islower():
                    methods.add((kind, function))
    for function in re.findall(r"^::(\w+)", text):
        alone.add(function)
    alone.update(name for name in FUNCTION.findall(text) if name not in ("match",))
    return methods, alone


def stale(patterns, sources):
    """Returns the names in the patterns that no source has."""
    found = []
    for pattern in patterns:
        methods, alone = named(pattern)
        for kind, function in sorted(methods):
            names = [rf"\b\w*{kind}\b", rf"\bfn {function}\b"]
            if not any(all(re.search(name, text) for name in names) for text in sources):
                found.append(f"{kind}::{function}")
        for name in sorted(alone):
            word = re.compile(rf"\b(?:fn|struct|enum|trait|impl) {name}\b|\b{name} for\b")
            if not any(word.search(text) for text in sources):
                found.append(name)
    return found


def settings():
    return tomllib.loads((ROOT / ".cargo" / "mutants.toml").read_text(encoding="utf-8"))


def sources():
    """Returns the texts of the files in scope."""
    files = {file for glob in settings()["examine_globs"] for file in ROOT.glob(glob)}
    return [file.read_text(encoding="utf-8") for file in sorted(files)]


class Exceptions(unittest.TestCase):
    def test_the_names_of_a_pattern_are_found(self):
        for pattern, methods, alone in [
            ("replace (Settlement|Delivery<T>|Entry)::nack with \\(\\)",
             {("Settlement", "nack"), ("Delivery", "nack"), ("Entry", "nack")}, set()),
            ("<impl Drop for Lane<T, S, D>>::drop", {("Lane", "drop")}, {"Drop", "Lane"}),
            ("in Tool<'_>::(act|check)|Tool<'_>::(act|check) ->", {("Tool", "act"), ("Tool", "check")}, set()),
            ("replace log_failure with \\(\\)|State::note", {("State", "note")}, {"log_failure"}),
            ("replace \\| with \\^ in is_base64", set(), {"is_base64"}),
            ("::expecting -> fmt::Result", set(), {"expecting"}),
            ("<impl (fmt::)?Debug for ", set(), set()),
        ]:
            self.assertEqual(named(pattern), (methods, alone), pattern)

    def test_a_name_that_is_gone_is_found(self):
        source = "impl Lane {\n    fn flush(&self) {}\n}\nfn is_base64() {}\n"
        self.assertEqual(stale(["in Lane<T>::flush", "in is_base64"], [source]), [])
        self.assertEqual(stale(["in Lane<T>::write", "in is_hex"], [source]), ["Lane::write", "is_hex"])

    def test_every_pattern_names_code_that_exists(self):
        self.assertTrue(sources())
        self.assertEqual(stale(settings()["exclude_re"], sources()), [])

    def test_most_patterns_name_code(self):
        patterns = settings()["exclude_re"]
        nameless = [pattern for pattern in patterns if not any(named(pattern))]
        self.assertLess(len(nameless), len(patterns) / 4, nameless)


if __name__ == "__main__":
    unittest.main()
