"""The verdict as JUnit XML, as a Markdown summary and as JSON."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any
from xml.etree import ElementTree

from fer_bench.gate.baseline import Key
from fer_bench.gate.checks import FAILED, PASSED, SKIPPED, Check, Judged, failures
from fer_bench.markdown import table

FORMAT = 1
_SHOWN = 20  # changed labels in the Markdown summary; the JSON has all
_UNSAID = re.compile(r"[^\t\n\r\x20-\uD7FF\uE000-\uFFFD]")  # what XML 1.0 cannot hold


def junit(judged: Sequence[Judged]) -> str:
    """JUnit XML: a test suite a row, a test case a check."""
    checks = [check for row in judged for check in row.checks]
    root = ElementTree.Element("testsuites", {"name": "fer-bench gate", **_counts(checks)})
    for row in judged:
        suite = ElementTree.SubElement(root, "testsuite", {"name": str(row.key), **_counts(row.checks)})
        for check in row.checks:
            case = ElementTree.SubElement(suite, "testcase", classname=check.row, name=check.name)
            words = _UNSAID.sub("?", check.words)
            if check.verdict == PASSED:
                ElementTree.SubElement(case, "system-out").text = words
            else:
                ElementTree.SubElement(case, "failure" if check.verdict == FAILED else "skipped", message=words)
    ElementTree.indent(root)
    return ElementTree.tostring(root, encoding="unicode", xml_declaration=True) + "\n"


def markdown(judged: Sequence[Judged], data: dict[str, Any]) -> str:
    """A summary for a pull request: the verdict, what failed, every check of every row, changed labels."""
    checks, failed = [check for row in judged for check in row.checks], failures(judged)
    on = f"{data['images']} images of {data['name']} {data['split']}"
    lines = [f"### Parity gate: {headline(judged)}", "", f"On {on}.", ""]
    lines += [f"- **{check.row}: {check.name}**: {_cell(check.words)}" for check in failed] + [""] * bool(failed)
    names = list(dict.fromkeys(check.name for check in checks))
    by_name = [(str(row.key), {check.name: check for check in row.checks}) for row in judged]
    lines += table(["row", *names], ([key, *(_figure(found.get(name)) for name in names)] for key, found in by_name))
    flips = [(row.key, flip) for row in judged for flip in row.flips]
    if flips:
        flips.sort(key=lambda one: -one[1].margin)
        lines += ["", "Labels changed against the net in float64:", ""]
        shown = [
            [str(key), str(flip.image), flip.truth, flip.got, f"{flip.margin:.4f}"] for key, flip in flips[:_SHOWN]
        ]
        lines += table(["row", "image", "from", "to", "margin"], shown)
        if len(flips) > _SHOWN:
            lines += ["", f"and {len(flips) - _SHOWN} more, of smaller margins."]
    return "\n".join(lines) + "\n"


def content(judged: Sequence[Judged], data: dict[str, Any], digests: dict[Key, str]) -> dict[str, Any]:
    """The results file. digests: of each row's bundle. A figure that is not finite becomes null; ``words`` says it."""
    return {
        "format": FORMAT,
        "verdict": FAILED if failures(judged) else PASSED,
        "data": data,
        "rows": [
            {
                **asdict(row.key),
                "bundle_sha256": digests.get(row.key),
                "agreement": row.parity and row.parity.top1_agreement,
                "certified": row.parity and row.parity.certified,
                "flips": [asdict(flip) for flip in row.flips],
                "checks": [
                    {key: _finite(value) for key, value in asdict(check).items() if key != "row"}
                    for check in row.checks
                ],
            }
            for row in judged
        ],
    }


def headline(judged: Sequence[Judged]) -> str:
    """How many checks failed, passed and were skipped."""
    verdicts = [check.verdict for row in judged for check in row.checks]
    return ", ".join(f"{verdicts.count(verdict)} {verdict}" for verdict in (FAILED, PASSED, SKIPPED))


def line(row: Judged) -> str:
    """A row in one line, with what the certificate says and what was skipped."""
    skipped = [f"{check.name} skipped ({check.words})" for check in row.checks if check.verdict == SKIPPED]
    told = next((check.words for check in row.checks if check.name == "labels" and check.verdict != SKIPPED), None)
    return f"{row.key}: {'; '.join([headline([row]), *([told] if told else []), *skipped])}"


def _counts(checks: Sequence[Check]) -> dict[str, str]:
    verdicts = [check.verdict for check in checks]
    return {
        "tests": str(len(checks)),
        "failures": str(verdicts.count(FAILED)),
        "errors": "0",
        "skipped": str(verdicts.count(SKIPPED)),
    }


def _figure(check: Check | None) -> str:
    if check is None or check.verdict == SKIPPED:
        return "-"
    if check.figure is None or check.bound is None:
        return check.verdict
    return f"{'**failed** ' if check.verdict == FAILED else ''}{check.figure:.3g} of {check.bound:.3g}"


def _finite(value: object) -> object:
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _cell(text: str) -> str:
    return text.replace("|", "\\|")
