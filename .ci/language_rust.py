"""Reads the doc comments of Rust code and counts some of its items, for .ci/language."""

import re
from collections import Counter, defaultdict
from pathlib import PurePosixPath

RUST = re.compile(
    r"""(?P<line>//[^\n]*)
      | (?P<comment>/\*(?:(?!/\*|\*/).|/\*.*?\*/)*\*/)
      | \b[bc]?r(?P<hashes>\#*)".*?"(?P=hashes)
      | "(?:[^"\\]|\\.)*"
      | '(?:\\(?:u\{[0-9a-fA-F_]*\}|x[0-9a-fA-F]{2}|.)|[^\\'\n])'""",
    re.VERBOSE | re.DOTALL,
)
VISIBLE = re.compile(r"\S")


def split_rust(source):
    """Returns the code, and the lines of doc comments as (line number, kind, text).

    In the code, comments are blank and literals are quotation marks, so that it has the same lines.
    """
    docs, line, last = [], 1, 0

    def blank(match):
        nonlocal line, last
        text = match[0]
        if match["line"] is None:
            return VISIBLE.sub(" " if match["comment"] else '"', text)
        if text.startswith("//!") or text.startswith("///") and not text.startswith("////"):
            line += source.count("\n", last, match.start())
            last = match.start()
            docs.append((line, text[:3], text[3:].removeprefix(" ")))
        return ""

    return RUST.sub(blank, source), docs


def doc_comments(docs):
    """Yields each doc comment as a list of (line number, text)."""
    comment, previous = [], None
    for number, kind, text in docs:
        if comment and previous != (number - 1, kind):
            yield comment
            comment = []
        comment.append((number, text))
        previous = number, kind
    if comment:
        yield comment


TEST_ATTRIBUTE = re.compile(r"#\[cfg\((?:test\)|all\(test\b[^\]]*)\]")
MODULE_FILE = re.compile(r"(?:\s*#\[[^\]]*\])*\s*(?:pub(?:\([^)]*\))?\s+)?mod\s+(\w+)\s*;")
BRACKETS = re.compile(r"[;(){}\[\]]")
TYPE = re.compile(r"\b(?:struct|enum|trait)\s+([A-Za-z_]\w*)")
PACKAGE = re.compile(r'^\[package\]\n(?:[^\[].*\n|\n)*?name\s*=\s*"([^"]+)"', re.MULTILINE)
FUNCTION = re.compile(r"\bfn\s+(\w+)\s*")
REFERENCE = re.compile(r"^(?:&\s*(?:'\w+\s+)?(?:mut\s+)?)*")


def end_of_item(code, at):
    """Returns the end of the item at a place: its `;`, or its `}`."""
    depth = 0
    for match in BRACKETS.finditer(code, at):
        depth += (match[0] in "([{") - (match[0] in ")]}")
        if depth <= 0 and match[0] in ";}":
            return match.end()
    return len(code)


def split_tests(code):
    """Returns production code, test code, and the names of modules whose files are tests."""
    production, tests, modules, start = [], [], [], 0
    for attribute in TEST_ATTRIBUTE.finditer(code):
        if attribute.start() < start:
            continue
        if module := MODULE_FILE.match(code, attribute.end()):
            modules.append(module[1])
        end = end_of_item(code, attribute.end())
        production.append(code[start:attribute.start()])
        tests.append(code[attribute.start():end])
        start = end
    return "".join([*production, code[start:]]), "".join(tests), modules


def parts(code, at, closer, separator=","):
    """Divides the code up to a closing bracket. Returns its parts and the place of the bracket."""
    result, depth, start = [], 0, at
    while at < len(code):
        char = code[at]
        is_arrow = char == ">" and code[at - 1] in "-="
        if depth == 0 and char == closer and not is_arrow:
            break
        if char in "([{<":
            depth += 1
        elif char in ")]}>" and not is_arrow:
            depth -= 1
        elif depth == 0 and char == separator:
            result.append(code[start:at])
            start = at + 1
        at += 1
    return [*result, code[start:at]], at


def tuple_parameters(code):
    """Yields the name of a function for each parameter that is a tuple or a reference to one."""
    for function in FUNCTION.finditer(code):
        at = function.end()
        if code.startswith("<", at):
            at = parts(code, at + 1, ">")[1] + 1
        if not code.startswith("(", at):
            continue
        for parameter in parts(code, at + 1, ")")[0]:
            # A pattern may have paths, such as State::Open(x).
            pattern_and_type = parts(parameter.replace("::", "__"), 0, "", ":")[0]
            kind = REFERENCE.sub("", pattern_and_type[-1].strip())
            is_typed = len(pattern_and_type) == 2  # self is not.
            if is_typed and kind.startswith("(") and len(parts(kind, 1, ")")[0]) > 1:
                yield function[1]


class Crate:
    """Counts of one crate, for information."""

    def __init__(self):
        self.types = defaultdict(list)  # files of each name
        self.lines = Counter()  # of "production" and "test"
        self.tuples = {"production": [], "test": []}  # files with the name of the function


def measure_crates(files, codes):
    """Counts the figures for information. `codes` has the code of each Rust file."""
    roots = {}
    for file in files:
        path = PurePosixPath(file)
        if path.name == "Cargo.toml" and (name := PACKAGE.search(files[file])):
            roots[str(path.parent)] = name[1]
    divided = {file: split_tests(code) for file, code in codes.items()}
    test_modules = set()  # paths without the ending
    for file, (_, _, modules) in divided.items():
        path = PurePosixPath(file)
        folder = path.parent if path.stem in ("lib", "main", "mod") else path.with_suffix("")
        test_modules.update(str(folder / module) for module in modules)
    crates = defaultdict(Crate)
    for file, (production, tests, _) in divided.items():
        path = PurePosixPath(file)
        root = next((str(p) for p in path.parents if str(p) in roots), None)
        if root is None:
            continue
        top = path.relative_to(root).parts[0]
        if top in ("benches", "examples"):
            continue
        is_test = not test_modules.isdisjoint(map(str, [path.with_suffix(""), *path.parents]))
        if top == "tests" or is_test:
            production, tests = "", codes[file]
        crate = crates[roots[root]]
        for kind, code in ("production", production), ("test", tests):
            crate.lines[kind] += sum(1 for line in code.split("\n") if line and not line.isspace())
            crate.tuples[kind] += [f"{file}: {name}" for name in tuple_parameters(code)]
        for match in TYPE.finditer(production):
            crate.types[match[1]].append(file)
    return dict(sorted(crates.items()))
