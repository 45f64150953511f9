"""Reads the sentences of Markdown, for .ci/language."""

import bisect
import re
from typing import NamedTuple

FENCE = re.compile(r"(`{3,}|~{3,})[^`]*$")
ITEM = re.compile(r"(?:[-*+]|(\d{1,9})[.)])(?:\s+|$)(?:\[[ xX]\]\s+)?")
RULE = re.compile(r"([-*_])(?:\s*\1){2,}$")
UNDERLINE = re.compile(r"(?:=+|-+)$")
HEADING = re.compile(r"#{1,6}(?:\s|$)")
TABLE_RULE = re.compile(r"\|?\s*:?-+:?\s*(?:\|\s*:?-+:?\s*)*\|?$")
LINK_DEFINITION = re.compile(r"\[[^\]]+\]:\s")
QUOTE = re.compile(r"\s{0,3}> ?")


def classify(lines):
    """Yields (kind, line number, text) of each line, without the markers of lists and quotes.

    Kinds are text, item (the first line of a list item), underline (of a heading), table (the rule
    below its header) and other.
    """
    fence = None  # of the code block that is open
    in_comment = in_table = in_quote = False
    indents = []  # of the text of the list items that are open
    kind, is_blank = "other", True
    for number, line in lines:
        line = line.expandtabs(4)
        if fence:
            text = QUOTE.sub("", line).strip()
            if text.startswith(fence) and set(text) == {fence[0]}:
                fence = None
            continue
        was_quote, in_quote = in_quote, False
        while marker := QUOTE.match(line):
            line, in_quote = line[marker.end():], True
        if in_quote != was_quote:
            yield "other", number, ""
            kind = "other"
        text = line.strip()
        indent = len(line) - len(line.lstrip())
        was_blank, is_blank = is_blank, not text
        has_text = kind in ("text", "item")
        while was_blank and text and indents and indent < indents[-1]:
            indents.pop()
        item = ITEM.match(text)
        kind = "other"
        if in_comment or text.startswith("<!--"):
            in_comment = "-->" not in text
        elif not text:
            in_table = False
        elif in_table:
            pass
        elif was_blank and indent >= 4 + (indents[-1] if indents else 0):
            is_blank = True  # The next line of this indented code block needs no blank line.
        elif opening := FENCE.match(text):
            fence = opening[1]
        elif has_text and UNDERLINE.match(text):
            kind = "underline"
        elif has_text and "|" in text and TABLE_RULE.match(text):
            kind, in_table = "table", True
        elif RULE.match(text) or HEADING.match(text):
            pass
        elif not has_text and LINK_DEFINITION.match(text):
            pass
        elif item and (not has_text or indents or item[1] in (None, "1")):
            while indents and indent < indents[-1]:
                indents.pop()
            indents.append(indent + item.end())
            text = text[item.end():]
            kind = "item"
            if opening := FENCE.match(text):
                kind, fence = "other", opening[1]
        else:
            kind = "text"
        yield kind, number, text


def blocks(lines):
    """Yields each paragraph and each list item of Markdown as a list of (line number, text)."""
    block = []
    for kind, number, text in classify(lines):
        if kind == "text":
            block.append((number, text))
            continue
        if kind == "underline":
            block = []
        elif kind == "table":
            block = block[:-1]
        if block:
            yield block
        block = [(number, text)] if kind == "item" else []
    if block:
        yield block


# The mask of a text is as long as the text. It has these characters in the place of code, and of
# what a reader does not see.
CODE, UNREAD = "\ue000", "\ue001"
INLINE = re.compile(
    r"""(?P<code>(?<!`)(?P<ticks>`+)(?!`).+?(?<!`)(?P=ticks)(?!`)
        | <?https?://[^\s<>]*[^\s<>.,;:!?)\]'"*]>?)
      | !\[[^\]]*\]\([^)]*\)                                                 # image
      | (?<=\])\((?:<[^>]*>|[^()\s]|\([^()]*\))*(?:\s+"[^"]*")?\s*\)         # target of a link
      | (?<=\])\[[^\]]*\]
      | <!--.*?--> | </?[a-zA-Z][^<>]*>""",
    re.VERBOSE | re.DOTALL,
)
OPENERS = "\"'“‘«([*_" + UNREAD
END = re.compile(r"([.!?…]+)([\"'”’»)\]*_" + UNREAD + r"]*)(?=\s|$)")
NEXT = re.compile(r"[\s" + re.escape(OPENERS) + r"]*(.?)", re.DOTALL)
PROSE = re.compile(r"[^\W_]")
WORD = re.compile(r"[^\W_]|" + CODE)
COMMA = re.compile(r",(?!\d)")
# Abbreviations that never end a sentence, and those that end one only before a capital letter.
INNER = set("e.g. i.e. cf. vs. viz. approx. ca. incl. fig. dr. mr. mrs.".split())
FINAL = set("etc. resp. al. max. min. inc. ltd. a.m. p.m.".split())


def is_end(mask, match):
    """Returns true if this full stop, question mark or exclamation mark ends a sentence."""
    marks, closers = match.groups()
    after = NEXT.match(mask, match.end())[1]
    start = max(mask.rfind(" ", 0, match.start()), mask.rfind("\n", 0, match.start())) + 1
    token = mask[start:match.end(1)].lstrip(OPENERS).lower()
    if not after:
        return True
    if token in INNER or token == "no." and after.isdigit():
        return False
    # A name in lower case, such as that of a service, may open a sentence.
    if not after.islower():
        return True
    is_quoted = closers.strip("*_" + UNREAD) != ""
    is_ellipsis = len(marks) > 1 or marks == "…"
    return not (is_quoted or is_ellipsis or token in FINAL)


class Sentence(NamedTuple):
    """A sentence with the place of its first word."""

    file: str
    line: int
    text: str
    words: int
    commas: int


def sentences(file, block):
    """Yields the sentences of a block."""
    source = "\n".join(text for _, text in block)
    mask = INLINE.sub(lambda match: (CODE if match["code"] else UNREAD) * len(match[0]), source)
    mask = re.sub("[—–]", " ", mask)
    line_starts = [0]
    for _, text in block:
        line_starts.append(line_starts[-1] + len(text) + 1)
    start = 0
    ends = [match.end() for match in END.finditer(mask) if is_end(mask, match)]
    for end in [*ends, len(mask)]:
        part = mask[start:end]
        if PROSE.search(part):
            at = start + len(part) - len(part.lstrip())
            line = block[bisect.bisect_right(line_starts, at) - 1][0]
            text = source[start:end]
            if UNREAD in part:
                text = "".join(c for c, m in zip(text, part) if m != UNREAD)
            words = sum(1 for token in part.split() if WORD.search(token))
            yield Sentence(file, line, " ".join(text.split()), words, len(COMMA.findall(part)))
        start = end
