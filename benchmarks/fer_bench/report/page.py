"""results.html: one file that says which row is best, shows why, and needs nothing beside it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fer_bench import tables
from fer_bench.report import album
from fer_bench.report.answer import answers, names, pareto
from fer_bench.report.markup import escaped, own_svg, table
from fer_bench.report.plots import Plot, plots, save_plots, svg
from fer_bench.report.style import CSS
from fer_runtimes.data import Faces
from fer_runtimes.files import whole_file

_FIRST = ("accuracy", "p50 ms", "speed-up")  # columns that say which row is best


def write_report(results: dict[str, Any], faces: Faces | None, html: Path | None, folder: Path | None) -> None:
    """Writes the page, and each plot as PNG and SVG into the folder; either may be None.

    results: of ``bench``, ``merge`` or ``read_results``; faces: the images that they speak of, for the album.
    Raises NotAvailable without matplotlib.
    """
    drawn = plots(results)
    if html is not None:
        text = page(results, drawn, faces)
        with whole_file(html) as aside:
            aside.write_text(text, encoding="utf-8")
    if folder is not None:
        save_plots(drawn, folder)


@dataclass(frozen=True)
class Context:
    """What a section is made from. called: a name for each row."""

    results: dict[str, Any]
    called: Sequence[str]
    drawn: Sequence[Plot]
    faces: Faces | None

    @property
    def rows(self) -> list[tables.Row]:
        """The rows, in the order of ``called``."""
        rows: list[tables.Row] = self.results["results"]
        return rows


def page(results: dict[str, Any], drawn: Sequence[Plot], faces: Faces | None) -> str:
    """The page as HTML. All text of the results is shown letter by letter: none of it can be markup."""
    context = Context(results, names(results["results"]), drawn, faces)
    data = results["data"]
    about = f"fer-bench: {', '.join(_places(results))}" + (f", {data['name']} {data['split']}" if data else "")
    sections = "\n".join(filter(None, (section(context) for section in _SECTIONS)))
    # The policy forbids what the page does not need: scripts, and requests to anywhere.
    return f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; img-src data:; style-src 'unsafe-inline'">
<link rel="icon" href="data:,">
<title>{escaped(about)}</title>
<style>{CSS}</style>
</head>
<body>
<main>
<h1>{escaped(about)}</h1>
{sections}
</main>
</body>
</html>
"""


def _places(results: dict[str, Any]) -> list[str]:
    return list(_machines(results))


def _machines(results: dict[str, Any]) -> dict[str, Any]:
    """Each machine's environment, data and queries, by its name."""
    return results.get("machines") or {str(results["environment"].get("host") or "this machine"): results}


# --- the sections, each HTML or nothing ----------------------------------------------------------


def _answer(context: Context) -> str:
    return "".join(f'<p class="answer">{escaped(words)}</p>' for words in answers(context.results))


def _alarms(context: Context) -> str | None:
    """What failed, and what speaks against the figures: before any of them."""
    said = [
        f"<b>{escaped(name)}</b> {what}: {escaped(row[key])}"
        for key, what in (("parity_failure", "breaks its bound"), ("error", "could not be measured"))
        for name, row in zip(context.called, context.rows, strict=True)
        if row.get(key)
    ]
    said += [
        f"<b>{escaped(name)}</b>: {escaped(fact)}"
        for name, own in _machines(context.results).items()
        for fact in tables.disturbances(own["environment"])
    ]
    if not said:
        return None
    return f'<section class="alarm"><h2>Before you trust it</h2><ul>{_items(said)}</ul></section>'


def _table(context: Context) -> str:
    best = [i for line in pareto(context.rows) for i in line]
    note = "<p class=quiet>Marked: no other row of its machine is both as fast and as accurate.</p>" if best else ""
    facts = "".join(f"<li>{escaped(fact)}</li>" for fact in tables.facts(context.results))
    headings, rows = _ordered(*tables.cells(context.results), context.called)
    main = table(headings, rows, label="Results", named=headings[0], marked=best)
    return f"<section><h2>Results</h2>{main}{note}<ul class=quiet>{facts}</ul></section>"


def _ordered(
    headings: Sequence[str], rows: Sequence[Sequence[str]], called: Sequence[str]
) -> tuple[list[str], list[list[str]]]:
    """The table with each row's own name and what was asked for first, so that a phone shows it without scrolling."""
    columns: dict[str, Sequence[str]] = dict(zip(headings, zip(*rows, strict=True), strict=True))
    first = {"runtime": called} | {heading: columns[heading] for heading in _FIRST if heading in columns}
    columns = first | {heading: column for heading, column in columns.items() if heading not in first | {"machine": ()}}
    return list(columns), [list(row) for row in zip(*columns.values(), strict=True)]


def _plots(context: Context) -> str | None:
    if not context.drawn:
        return None
    return f'<section><h2>Plots</h2><div class="plots">{"".join(map(_plot, context.drawn))}</div></section>'


def _plot(plot: Plot) -> str:
    drawing = own_svg(svg(plot), f"{plot.name}-", plot.alt)
    return f'<figure id="{plot.name}"><h3>{escaped(plot.title)}</h3>{drawing}<figcaption>{escaped(plot.says)}</figcaption></figure>'


def _further(context: Context) -> str | None:
    timed = [name for name, row in zip(context.called, context.rows, strict=True) if row["latency_ms"]]
    if not timed:
        return None
    headings, rows = _ordered(*tables.further_cells(context.results), timed)
    label = "Latency with confidence, start and memory"
    return f"<section><h2>{label}</h2>{table(headings, rows, label=label, named=headings[0])}</section>"


def _extra(context: Context) -> str | None:
    """Batches, paced frames, a soak and the like, where they were asked for."""
    parts = [
        f"<section><h2>{escaped(title)}</h2>{table(headings, rows, label=title, named=headings[0])}</section>"
        for title, headings, rows in tables.extra_cells(context.results)
    ]
    return "".join(parts) or None


def _album(context: Context) -> str | None:
    if not context.results["data"]:
        return None
    parts = []
    for key, heading, none in (
        ("disagreements", "Where rows depart from their reference, the clearest of its answers first", "No row does."),
        ("worst_mistakes", "Wrong, and most sure of it", "No row is wrong."),
    ):
        if not any(row.get(key) is not None for row in context.rows):
            continue
        shown = album.album(context.rows, context.called, key, context.faces)
        parts.append(f"<h3>{heading}</h3>{''.join(shown) or f'<p>{none}</p>'}")
    if not parts:
        return None
    hint = "" if context.faces else "<p class=quiet>Images by their number in the split; --data shows the faces.</p>"
    return f"<section><h2>Faces to look at</h2>{hint}{''.join(parts)}</section>"


def _notes(context: Context) -> str | None:
    said = [
        f"<b>{escaped(name)}</b>: {escaped(note)}"
        for name, row in zip(context.called, context.rows, strict=True)
        for note in row.get("notes") or []
    ]
    return f"<section><h2>Notes</h2><ul>{_items(said)}</ul></section>" if said else None


def _environment(context: Context) -> str:
    machines = _machines(context.results)
    parts = []
    for name, own in machines.items():
        told = {heading: _fact(tell, own) for heading, tell in _FACTS.items()}
        lines = "".join(
            f"<div><dt>{heading}</dt><dd>{escaped(text)}</dd></div>" for heading, text in told.items() if text
        )
        heading = f"<h3>{escaped(name)}</h3>" if len(machines) > 1 else ""
        parts.append(f'{heading}<dl class="facts">{lines}</dl>')
    return f"<section><h2>Environment</h2>{''.join(parts)}</section>"


def _items(said: Sequence[str]) -> str:
    return "".join(f"<li>{words}</li>" for words in said)


_Section = Callable[[Context], str | None]
# In the order of the page. A section for a further key of the result file is one function and one entry here.
_SECTIONS: tuple[_Section, ...] = (
    _answer,
    _alarms,
    _table,
    _plots,
    _further,
    _extra,
    _album,
    _notes,
    _environment,
)


# --- facts of a machine ---------------------------------------------------------------------------

Own = Mapping[str, Any]


def _of(*keys: str) -> Callable[[Own], object]:
    """Reads what stands under these keys, one inside the other."""

    def read(own: Own) -> object:
        value: Any = own
        for key in keys:
            value = value[key]
        return value

    return read


def _before_and_after(key: str, unit: str, precision: int = 0) -> Callable[[Own], str]:
    """A reading by place, before the first measurement and after the last; places that read the same stand together."""

    def told(own: Own) -> str:
        before, after = (own["environment"][moment][key] for moment in ("before", "after"))
        places: dict[str, list[str]] = {}
        for place in before:
            if place in after:
                span = f"{before[place]:.{precision}f} to {after[place]:.{precision}f} {unit}"
                places.setdefault(span, []).append(place)
        return "; ".join(f"{', '.join(together)} {span}" for span, together in places.items())

    return told


def _share(key: str) -> Callable[[Own], str]:
    return lambda own: f"{own['environment'][key]:.1%}"


def _memory(own: Own) -> str:
    place = own["environment"]
    return f"{place['memory_available_bytes'] / 1e9:.1f} of {place['memory_bytes'] / 1e9:.1f} GB"


def _data(own: Own) -> str:
    data = own["data"]
    return f"{data['name']} {data['split']}, {data['images']} images, SHA-256 {data['sha256']}"


def _fact(tell: Callable[[Own], object], own: Own) -> str:
    try:
        value = tell(own)
    except (AttributeError, KeyError, TypeError, ValueError):  # what this machine did not tell
        return ""
    return "" if value is None else str(value)


_FACTS: dict[str, Callable[[Own], object]] = {
    "host": _of("environment", "host"),
    "board": _of("environment", "board", "model"),
    "processor": _of("environment", "cpu"),
    "cores that may be used": _of("environment", "cores"),
    "architecture": _of("environment", "machine"),
    "system": _of("environment", "system"),
    "JetPack": _of("environment", "board", "jetpack"),
    "power mode": _of("environment", "board", "power_mode"),
    "clock governor": _of("environment", "board", "governor"),
    "clock limits": lambda own: "; ".join(
        f"{name} {low:.0f} to {high:.0f} MHz"
        for name, (low, high) in own["environment"]["board"]["clocks_limits_mhz"].items()
    ),
    "clocks, before and after": _before_and_after("clocks_mhz", "MHz"),
    "temperatures, before and after": _before_and_after("temperatures_c", "°C", 1),
    "power, before and after": _before_and_after("power_w", "W", 2),
    "throttled": lambda own: {True: "yes", False: "no"}.get(own["environment"]["after"]["throttled"]),
    "processors taken by others": _share("busy_share"),
    "of that, by the hypervisor": _share("steal_share"),
    "memory left with all runtimes open": _memory,
    "data": _data,
    "queries a runtime, at least": _of("queries"),
    "commit": _of("environment", "commit"),
    "Python": _of("environment", "python"),
    "versions": lambda own: ", ".join(f"{name} {version}" for name, version in own["environment"]["versions"].items()),
}
