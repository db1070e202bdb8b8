"""Numbered and upper-case headings of license texts: where a clause starts, and what its heading says it is about."""

import re
from collections.abc import Iterator
from itertools import pairwise

# label -> what its headings look like. The first rule that matches wins, so narrow ones stand above broad ones. Each
# label is a word with its own first token under the byte-pair vocabularies of the models we use.
RULES: tuple[tuple[str, str], ...] = (
    ("confidential", r"confidential"),
    ("export", r"\bexport"),
    ("government", r"government|u\.?s\.? (end|restricted)|restricted rights"),
    ("indemnity", r"indemn|third.party claims|responsibility for claims|\balleged"),
    ("severability", r"severab|invalid provision|inability to comply"),
    ("waiver", r"^(no )?waivers?( of breach)?$"),
    ("force", r"force majeure"),
    ("audit", r"\baudit|verification|record.?keeping|inspection"),
    ("payment", r"^(licen[cs]e |service )?fees?\b|payment|\btax(es)?\b|\bpric(e|es|ing)\b|invoic"),
    ("feedback", r"feedback|suggestions|submission of contributions"),
    ("privacy", r"^data\b|(user|personal|customer) data|use of data|privacy|personal information|telemetry"),
    ("backup", r"back.?up|archival"),
    ("updates", r"updates?\b|upgrades?\b"),
    ("support", r"\bsupport\b|maintenance"),
    ("patent", r"patent"),
    ("trademark", r"trademark|trade names?|\blogos?\b|publicity|\bbranding"),
    (
        "versions",
        r"(new |future )?(versions?|revisions?) of (the|this) licen[cs]e|^new versions?|effect of new versions",
    ),
    ("assignment", r"assign(ment|ability)|^transfer|transfer(ability)? ?(of|to|$)"),
    ("definitions", r"^definitions?\b|^definitions? and|^interpretation$|^defined terms$"),
    ("liability", r"liability|damages|exclusion of remedies"),
    ("warranty", r"warrant|^disclaimers?$|\bas.is\b"),
    ("termination", r"terminat|^term$|duration"),
    ("law", r"governing law|applicable law|choice of law|jurisdiction|\bvenue|arbitration|dispute|governing"),
    ("entire", r"entire agreement|^integration$|complete agreement|whole agreement|entire license"),
    ("amendment", r"^amendments?$|amendments? (and|or|to)|(changes|modifications?) (to|of) (the|this|these|terms)"),
    ("ownership", r"ownership|intellectual property|proprietary rights|^title\b|reservation of rights|^copyrights?$"),
    ("component", r"(third.party|open.source|free) (software|components?|materials?|code|programs?|notices)"),
    ("source", r"source code|^source$"),
    ("restrictions", r"restriction|prohibit|limitations on use|use limitations|^limitations$|exclusions from license"),
    ("modify", r"^modif(y|ications?|ied)\b|derivative works?$|modified versions?|description of modifications"),
    ("distribution", r"distribut|larger works?|conveying"),
    ("notices", r"required notices|attribution|copyright notices?"),
    (
        "grant",
        r"^(software )?licen[cs]e$|grants?\b|scope of (the )?licen[cs]e|use rights|rights? to use|permitted uses?"
        r"|licen[cs]e to use|^licensed? (rights|use)",
    ),
)
# Titles of whole documents and of parts that hold many clauses: they say nothing about one clause.
TITLES = re.compile(
    r"terms and conditions|(licen[cs]e|services?) agreement$|public licen[cs]e|^exhibit|^schedule|^appendix|^annex"
)
_COMPILED = tuple((label, re.compile(rule)) for label, rule in RULES)

_NUMBER = (
    r"(?:(?:section|article|clause|§)\s*)?"
    r"(?:\d{1,2}(?:\.\d{1,2}){0,2}[.):]*|(?:[a-zA-Z]|[ivxIVX]{1,5})[.):]+|\([a-zA-Z0-9]{1,3}\)[.:]*)\s+"
)
_HEADING = re.compile(
    rf"^(?P<number>{_NUMBER})?(?P<text>[A-Z][A-Za-z .,/;&'’\-]{{2,70}}?)"
    r"(?P<end>\s*[.:;]\s+|\s*[.:;]?$|\s+[-–—]+\s+)(?P<rest>.*)$",
    re.IGNORECASE,
)
_MAX_WORDS = 9
_SMALL = re.compile(
    r"an?|and|as|at|by|for|from|in|no|not|of|on|or|other|our|over|s|such|the|these|this|to|under|upon|with|your"
)


def label_of(heading: str) -> str | None:
    """The label of a heading, or None where no rule knows it."""
    text = re.sub(r"[^a-z. \-]+", " ", heading.casefold()).strip(" .-")
    text = " ".join(text.split())
    if TITLES.search(text):
        return None
    return next((label for label, rule in _COMPILED if rule.search(text)), None)


def clauses(text: str) -> Iterator[tuple[str, str]]:
    """(heading, body) of each headed clause of a license text; the heading is cut from the body."""
    heading, body, after_blank = "", list[str](), True
    lines = [line.strip().strip("*_#").strip() for line in text.splitlines()]
    for stripped, following in pairwise([*lines, ""]):
        found = _heading(stripped, after_blank, following)
        after_blank = not stripped
        if found:
            if heading and body:
                yield heading, " ".join(body)
            heading, rest = found
            body = rest.split()
        elif stripped and not set(stripped) <= set("-=_*~ "):
            body.extend(stripped.split())
    if heading and body:
        yield heading, " ".join(body)


def _heading(line: str, after_blank: bool, following: str) -> tuple[str, str] | None:
    """(heading, rest of the line) where a line opens a clause: numbered, or set as a title after a blank line."""
    match = _HEADING.match(line)
    if not match or not (after_blank or match["number"]):
        return None
    text, rest, end = match["text"].strip(), match["rest"].strip(), match["end"].strip()
    if not (match["number"] or rest or end) and line.isupper() and following.isupper():  # a paragraph of capitals
        return None
    words = re.findall(r"[A-Za-z’']+", text)
    if not 1 <= len(words) <= _MAX_WORDS or not _titled(words):
        return None
    if (rest and rest[0].islower()) or end == ";":  # "U.S. law applies": the stop ended no heading
        return None
    return text, rest


def _titled(words: list[str]) -> bool:
    """Every word that matters begins with a capital."""
    return words[0][0].isupper() and all(word[0].isupper() or _SMALL.fullmatch(word.casefold()) for word in words)
