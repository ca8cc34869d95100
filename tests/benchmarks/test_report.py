"""The page, in a real browser: it says what the results say, to every reader, and nothing in them can do more than be read."""

from __future__ import annotations

import base64
import copy
import io
import json
import re
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import browser as chromium
import numpy as np
import pytest
from PIL import Image

from fer_bench import tables
from fer_bench.bench import Job, bench
from fer_bench.merge import merge
from fer_bench.mistakes import disagreements, worst_mistakes
from fer_bench.report import plots
from fer_bench.report.answer import answers, names, pareto
from fer_bench.report.page import write_report
from fer_runtimes import metrics
from fer_runtimes.bundle import Bundle
from fer_runtimes.data import Faces, load_faces
from fer_runtimes.session import Options

Results = dict[str, Any]
WIDTHS = {"phone": (360, 800), "desk": (1280, 900)}
HOSTILE = "<script>document.title = 'mine'</script>\"'&<img src=x onerror=alert(1)>$\\frac{1}$ \x00 面"


@pytest.fixture(scope="module")
def faces_csv(csv_file: Path) -> Faces:
    return load_faces(csv_file, ("PublicTest",))


@pytest.fixture(scope="module")
def results(bundles: dict[str, Bundle], faces_csv: Faces) -> Results:
    """Of every kind of row: timed, executed without a clock, not able to run."""
    wanted = [
        ("pytorch", "pytorch unfolded"),
        ("onnxruntime", "onnx fp32"),
        ("openvino", "openvino fp32"),
        ("coreml-reference", "coreml fp16"),
    ]
    jobs = [Job(runtime, bundles[name]) for runtime, name in wanted]
    jobs.append(Job("tensorrt", None, "runtime tensorrt needs tensorrt, not installed here"))
    return json.loads(json.dumps(bench(jobs, faces_csv, Options(threads=1), 72, seconds=0), allow_nan=False))


@pytest.fixture(scope="module")
def disagreeing(results: Results, faces_csv: Faces) -> Results:
    """The same with a row that breaks its bound and departs from its reference, as a bad engine's would."""
    content = copy.deepcopy(results)
    row = content["results"][2]
    row["parity_failure"] = "openvino on fer: the largest logit error is 41 times float32's own, at most 10 may be"
    row["disagreements"] = [
        {"image": 3, "label": 0, "reference": 0, "answer": 4, "margin": 2.5, "probability": 0.61},
        {"image": 69, "label": 6, "reference": 6, "answer": 3, "margin": 0.01, "probability": None},
    ]
    row["confusion"][0][0] -= 1
    row["confusion"][0][4] += 1
    return content


NEEDS_DATA = ("accuracy", "recall", "f1", "confusion", "calibration", "disagreements", "worst_mistakes")


@pytest.fixture(scope="module")
def merged(results: Results) -> Results:
    """Two machines, the second with a name and an error that a stranger chose, hot, and without data."""
    other = copy.deepcopy(results) | {"data": None}
    other["environment"]["after"]["throttled"] = True
    for row in other["results"]:
        row |= dict.fromkeys(NEEDS_DATA)
        row |= dict.fromkeys(("ratio", "raw_ns"))
    other["results"][-1]["error"] = HOSTILE
    return merge([("desk", results), (f"_{HOSTILE}", other)])


def made(results: Results, folder: Path, faces: Faces | None = None) -> str:
    write_report(results, faces, folder / "results.html", None)
    return (folder / "results.html").read_text(encoding="utf-8")


# --- what the result file holds ------------------------------------------------------------------


def test_disagreements_are_the_clearest_twelve_of_the_reference() -> None:
    random = np.random.default_rng(0)
    truth = random.normal(size=(200, 7)).astype(np.float32)
    logits = truth.copy()
    logits[::5] = random.normal(size=(40, 7))
    labels = random.integers(0, 7, 200)
    found = disagreements(logits, truth, labels)
    assert found is not None
    assert len(found) == 12
    every = {}
    for i in np.flatnonzero(truth.argmax(1) != logits.argmax(1)):
        first, second = sorted(truth[i], reverse=True)[:2]
        every[int(i)] = float(first - second)
    assert [entry["image"] for entry in found] == sorted(every, key=lambda i: -every[i])[:12]
    for entry in found:
        i = entry["image"]
        assert (entry["label"], entry["reference"], entry["answer"]) == (
            labels[i],
            truth[i].argmax(),
            logits[i].argmax(),
        )
        assert entry["margin"] == pytest.approx(every[i])
        assert entry["probability"] == pytest.approx(metrics.softmax(logits[i : i + 1]).max())
    assert disagreements(logits, logits, labels) == []
    assert disagreements(logits, None, labels) is None


def test_the_worst_mistakes_are_the_surest_wrong_answers() -> None:
    random = np.random.default_rng(1)
    logits = random.normal(size=(200, 7)).astype(np.float32)
    labels = logits.argmax(1)
    assert worst_mistakes(logits, None, labels) == []
    labels[:50] = (labels[:50] + 1) % 7
    found = worst_mistakes(logits, None, labels)
    sure = metrics.softmax(logits[:50]).max(1)
    assert [entry["image"] for entry in found] == np.argsort(-sure)[:12].tolist()
    assert {(entry["reference"], entry["margin"]) for entry in found} == {(None, None)}
    logits[0, 0] = np.inf  # an overflow: no probability, and still plain JSON
    with np.errstate(invalid="ignore"):
        json.dumps(worst_mistakes(logits, logits, labels), allow_nan=False)


def test_rows_name_images_only_where_there_is_data(
    results: Results, faces_csv: Faces, bundles: dict[str, Bundle]
) -> None:
    *ran, missing = results["results"]
    for row in ran:
        assert row["disagreements"] == []
        assert 0 < len(row["worst_mistakes"]) <= 12
        for entry in row["worst_mistakes"]:
            assert entry["label"] == faces_csv.labels[entry["image"]] != entry["answer"] == entry["reference"]
    assert missing["disagreements"] is missing["worst_mistakes"] is None
    bare = bench([Job("onnxruntime", bundles["onnx fp32"])], None, Options(threads=1), 12, seconds=0)["results"][0]
    assert bare["disagreements"] is bare["worst_mistakes"] is None
    assert bare.keys() == missing.keys()
    assert "worst_mistakes" not in tables.comma_separated(results).splitlines()[0]


# --- what the page says ---------------------------------------------------------------------------


def row(runtime: str, p50: float | None, accuracy: float | None, **more: Any) -> dict[str, Any]:
    latency = None if p50 is None else {"p50": p50, "p50_interval": [p50 * 0.98, p50 * 1.02]}
    return {"runtime": runtime, "folded": True, "latency_ms": latency, "accuracy": accuracy, "ratio": None} | more


@pytest.mark.parametrize(
    ("rows", "line", "said"),
    [
        ([row("a", 2, 0.7), row("b", 1, 0.7)], [[1]], "b is best: the fastest (p50 1.000 ms), and none is more accurate (70.00%)."),
        ([row("a", 2, 0.7), row("b", 1, 0.6)], [[1, 0]], "No row is best in both: b is the fastest (p50 1.000 ms; 60.00% right), a the most accurate (70.00%; p50 2.000 ms)."),
        ([row("a", 1.01, 0.7), row("b", 1, 0.7)], [[1]], "b is best: the fastest (p50 1.000 ms), and none is more accurate (70.00%). Too close to tell from it: a."),
        ([row("a", 2, None), row("b", 1, None)], [], "b is the fastest: p50 1.000 ms. Accuracy was not measured: that takes --data."),
        ([row("a", None, 0.7), row("b", 1, 0.6)], [[1]], "No row is best in both: b is the fastest (p50 1.000 ms; 60.00% right), a the most accurate (70.00%)."),
        ([row("a", None, 0.7), row("b", None, 0.6)], [], "No row has a latency. None is more accurate than a: 70.00%."),
        ([row("a", 2, 0.7), row("b", 1, 0.7, parity_failure="41 times"), row("null", 0.1, None)], [[0]], "a is best: the fastest (p50 2.000 ms), and none is more accurate (70.00%)."),
        ([row("a", None, None, error="needs a")], [], "Nothing to compare."),
        ([row("a", 2, 0.7, machine="x"), row("a", 1, 0.6, machine="y")], [[0], [1]], "x: a is best: the fastest (p50 2.000 ms), and none is more accurate (70.00%)."),
    ],
)  # fmt: skip
def test_the_answer_names_the_best_row_and_only_what_may_be_named(
    rows: list[dict[str, Any]], line: list[list[int]], said: str
) -> None:
    assert pareto(rows) == line
    assert answers({"results": rows})[0] == said


def test_no_two_rows_are_called_the_same() -> None:
    kin = {"folded": True, "target": "onnx", "precision": "fp32", "bundle": "a"}
    rows = [{"runtime": "ort"} | kin | change for change in ({}, {"precision": "fp16"}, {}, {"machine": "nano"})]
    assert names(rows) == ["ort fp32", "ort fp16", "ort fp32 (no. 2)", "nano: ort"]


class Parsed(HTMLParser):
    """Ids, what refers to them, addresses, scripts, and the visible text."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.ids: list[str] = []
        self.references: set[str] = set()
        self.addresses: list[str] = []
        self.tags: Counter[str] = Counter()
        self.words = ""
        self.feed(page)

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.tags[tag] += 1
        for name, value in attributes:
            value = value or ""
            self.references |= set(re.findall(r"url\(#([^)]+)\)", value))
            assert not name.startswith("on"), f"{tag} {name}"
            if name == "id":
                self.ids.append(value)
            elif name in ("src", "href", "xlink:href"):
                if value.startswith("#"):
                    self.references.add(value[1:])
                else:
                    self.addresses.append(value)

    def handle_data(self, data: str) -> None:
        self.words += data


def complaints(page: str) -> list[str]:
    """What is wrong with the page as text."""
    parsed = Parsed(page)
    return [
        *(f"id {name} stands {count} times" for name, count in Counter(parsed.ids).items() if count > 1),
        *(f"nothing has id {name}" for name in sorted(parsed.references - set(parsed.ids))),
        *(f"asks for {address}" for address in parsed.addresses if not address.startswith("data:")),
        *(["a script"] if parsed.tags["script"] else []),
    ]


def test_the_page_stands_alone_and_its_ids_are_its_own(disagreeing: Results, faces_csv: Faces, tmp_path: Path) -> None:
    page = made(disagreeing, tmp_path, faces_csv)
    assert complaints(page) == []
    parsed = Parsed(page)
    assert parsed.tags["svg"] == 5  # the two of speed, two different confusion tables, one of reliability
    assert len(parsed.references) > 4
    assert parsed.tags["h1"] == parsed.tags["title"] == 1
    drawing = re.search(r"<svg.*?</svg>", page, re.DOTALL)
    assert drawing is not None
    assert complaints(page.replace("</main>", drawing[0] + "</main>"))
    assert complaints(page.replace("</main>", "<script src='https://example.org/a.js'></script></main>")) == [
        "asks for https://example.org/a.js",
        "a script",
    ]


def test_what_failed_stands_above_the_figures(disagreeing: Results, tmp_path: Path) -> None:
    words = Parsed(made(disagreeing, tmp_path)).words
    assert words.index("openvino breaks its bound: openvino on fer: the largest") < words.index("Results")
    assert words.index("tensorrt could not be measured: runtime tensorrt needs") < words.index("Results")
    assert "openvino is best" not in words


def test_every_file_makes_a_page(results: Results, merged: Results, tmp_path: Path) -> None:
    """Without data, without times, of nothing but errors, of two machines, of an older version without the newer keys."""
    bare = copy.deepcopy(results) | {"data": None}
    for each in bare["results"]:
        each |= dict.fromkeys((*NEEDS_DATA, "raw_ns"))
    old = copy.deepcopy(results)
    for each in old["results"]:
        for key in ("disagreements", "worst_mistakes", "ratio", "raw_ns", "machine", "calibration", "f1", "average"):
            del each[key]
    untimed = results | {"results": results["results"][3:]}
    errors = results | {"results": results["results"][4:]}
    for content, drawn, said in (
        (bare, 1, "Accuracy was not measured"),
        (old, 3, "is best"),
        (untimed, 2, "No row has a latency"),
        (errors, 0, "Nothing to compare"),
        (merged, 4, "desk: onnxruntime"),
        (results | {"results": []}, 0, "Results"),
    ):
        page = made(content, tmp_path)
        assert complaints(page) == []
        assert Parsed(page).tags["svg"] == drawn, said
        assert said in Parsed(page).words


def test_faces_are_those_of_the_data_and_stand_in_the_page_alone(
    disagreeing: Results, faces_csv: Faces, tmp_path: Path
) -> None:
    page = made(disagreeing, tmp_path, faces_csv)
    shown = re.findall(r'<img src="data:image/png;base64,([^"]+)" alt="face no. (\d+)"', page)
    assert [int(number) for _, number in shown[:2]] == [3, 69]  # disagreements before mistakes
    assert len(shown) == 2 + len(disagreeing["results"][0]["worst_mistakes"])  # four rows, the same mistakes: once
    for text, number in shown:
        image = np.asarray(Image.open(io.BytesIO(base64.b64decode(text))))
        np.testing.assert_array_equal(image, faces_csv.images[int(number)])
    assert "sad 61.0%labelled angryreference: angry by 2.5" in Parsed(page).words
    assert "<img" not in made(disagreeing, tmp_path)
    assert "no. 69" in made(disagreeing, tmp_path)


def test_plots_are_files_too(results: Results, tmp_path: Path) -> None:
    write_report(results, None, None, tmp_path / "plots")
    wanted = {
        f"{name}{suffix}"
        for name in ("accuracy-latency", "latency", "confusion", "reliability")
        for suffix in (".png", ".svg")
    }
    assert {path.name for path in (tmp_path / "plots").iterdir()} == wanted
    for path in (tmp_path / "plots").glob("*.png"):
        assert not blank(np.asarray(Image.open(path).convert("RGB")))
        assert "<svg" in path.with_suffix(".svg").read_text()


def blank(pixels: np.ndarray) -> bool:
    """Whether a picture shows next to nothing: axes alone are fewer than 40 greys and no hue."""
    colours, counts = np.unique(pixels.reshape(-1, 3), axis=0, return_counts=True)
    hues = colours[np.ptp(colours.astype(int), axis=1) > 40]
    return len(colours) < 40 or len(hues) < 5 or counts.max() / counts.sum() > 0.99


# --- the commands ---------------------------------------------------------------------------------

Command = Callable[..., subprocess.CompletedProcess[str]]


def test_a_page_right_after_measuring_and_the_same_from_the_file(
    in_process: Command, bundles: dict[str, Bundle], csv_file: Path, tmp_path: Path
) -> None:
    first, second = tmp_path / "first.html", tmp_path / "second.html"
    out = tmp_path / "out.json"
    measuring = ("--runtime", "onnxruntime", "--model", bundles["onnx fp32"].path, "--queries", 24, "--seconds", 0)
    done = in_process("fer-bench", *measuring, "--data", csv_file, "--json", out, "--html", first)
    assert done.returncode == 0, done.stderr
    again = ("report", out, "--data", csv_file, "--html", second, "--plots", tmp_path / "plots")
    done = in_process("fer-bench", *again)
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    assert first.read_text() == second.read_text()
    assert "data:image/png" in first.read_text()
    assert len(list((tmp_path / "plots").iterdir())) == 8


def test_what_cannot_be_shown_is_refused_in_one_line(
    command: Command, results: Results, csv_file: Path, tmp_path: Path
) -> None:
    whole = json.dumps(results)
    other = json.dumps(results | {"data": results["data"] | {"sha256": "0" * 64}})
    beyond = json.loads(whole)
    beyond["results"][0]["worst_mistakes"][0]["image"] = 70
    odd = json.loads(whole)
    odd["results"][0]["confusion"] = [[1, 2]]
    html, with_data = ("--html", tmp_path / "page.html"), ("--data", csv_file)
    for text, arguments, complaint in (
        (whole, (), "nothing to write: give --html results.html"),
        (whole[:500], html, "not a whole result file"),
        ("{}", html, "result format None"),
        (other, (*html, *with_data), "measured on 70 images of fer2013 PublicTest (000000000000)"),
        (json.dumps(results | {"data": None}), (*html, *with_data), "measured without data"),
        (json.dumps(beyond), (*html, *with_data), "names an image beyond the 70 of its data"),
        (json.dumps(odd), html, "not as fer-bench writes it"),
        (json.dumps(results | {"results": [1]}), html, "not as fer-bench writes it"),
    ):
        file = tmp_path / "out.json"
        file.write_text(text)
        done = command("fer-bench", "report", file, *arguments)
        assert done.returncode == 2, complaint
        assert complaint in done.stderr
        assert len(done.stderr.splitlines()) == 1
        assert not (tmp_path / "page.html").exists()


def test_without_matplotlib_nothing_is_measured_for_a_page_that_cannot_be_drawn(
    bundles: dict[str, Bundle], tmp_path: Path
) -> None:
    code = "import sys; sys.modules['matplotlib'] = None; from fer_bench.cli import main; main()"
    arguments = ["--runtime", "null", "--model", str(bundles["onnx fp32"].path), "--html", str(tmp_path / "page.html")]
    done = subprocess.run([sys.executable, "-c", code, *arguments], capture_output=True, text=True, timeout=60)
    assert done.returncode == 2
    assert done.stderr == "error: plots need matplotlib; pip install '.[report]' in fer-edge's checkout\n"


# --- in the browser -------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def window() -> Iterator[chromium.Browser]:
    if chromium.MISSING:
        pytest.skip(chromium.MISSING)
    with chromium.browser() as opened:
        yield opened


# Every piece of text with the colours that it and what lies under it have. elementsFromPoint sees
# what a reader sees there: the cell of a heat map, or the row name that stays while a table scrolls.
_TEXTS = r"""
const parse = text => { const v = text.match(/[\d.]+/g).map(Number); return v.length > 3 ? v : [...v, 1]; };
const over = (top, base) => [0, 1, 2].map(i => top[i] * top[3] + base[i] * (1 - top[3]));
const found = [];
for (const e of document.querySelectorAll('body *')) {
  const own = [...e.childNodes].some(n => n.nodeType === 3 && n.data.trim());
  if (!own) continue;
  e.scrollIntoView({block: 'center', inline: 'center'});
  const box = e.getBoundingClientRect(), svg = e.closest('svg'), style = getComputedStyle(e);
  const under = document.elementsFromPoint(box.x + box.width / 2, box.y + box.height / 2).reverse();
  let base = [255, 255, 255];
  for (const u of under) {
    const s = getComputedStyle(u);
    if (u instanceof SVGGraphicsElement && !['text', 'tspan', 'svg', 'g', 'use'].includes(u.tagName)) {
      if (s.fill !== 'none') { const c = parse(s.fill); c[3] *= s.opacity * s.fillOpacity; base = over(c, base); }
    } else if (!(u instanceof SVGElement)) base = over(parse(s.backgroundColor), base);
  }
  const m = svg ? e.getScreenCTM() : null;
  const frame = svg ? svg.getBoundingClientRect() : null;
  found.push({
    text: e.textContent.trim().slice(0, 60), ink: parse(svg ? style.fill : style.color), base,
    pixels: parseFloat(style.fontSize) * (m ? Math.hypot(m.a, m.b) : 1),
    drawing: svg ? [...document.querySelectorAll('svg')].indexOf(svg) : null,
    level: !m || Math.abs(m.b) < 1e-3,
    box: svg ? [box.left - frame.left, box.top - frame.top, box.right - frame.left, box.bottom - frame.top] : null,
    frame: svg ? [frame.width, frame.height] : null,
  });
}
scrollTo(0, 0);
return found;
"""


def contrast(ink: list[float], base: list[float]) -> float:
    """WCAG's contrast ratio of two colours of 0..255."""

    def luminance(colour: list[float]) -> float:
        values = [c / 255 for c in colour[:3]]
        linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in values]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    light, dark = sorted((luminance(ink), luminance(base)), reverse=True)
    return (light + 0.05) / (dark + 0.05)


def faults(window: chromium.Browser, page: Path, width: int, height: int, dark: bool) -> list[str]:
    """What a reader with this window would have to complain about."""
    window.open(page, width, height, dark)
    said = [f"console: {entry['message']}" for entry in window.logs("browser")]
    said += [f"asked for {url}" for url in window.requests() if url != page.resolve().as_uri()]
    if (wide := window.run("return document.documentElement.scrollWidth")) > width:
        said.append(f"{wide} pixels wide")
    background = window.picture()[:4].mean()
    if (background < 50) != dark:
        said.append(f"background of {background:.0f}")
    for i in range(window.run("return document.querySelectorAll('figure[id]').length")):
        name = window.run(f"return document.querySelectorAll('figure[id]')[{i}].id")
        if blank(window.picture(f"#{name} svg")):
            said.append(f"{name} is blank")
    if broken := window.run("return [...document.images].filter(i => !i.naturalWidth).length"):
        said.append(f"{broken} broken images")
    texts = window.run(_TEXTS)
    assert len(texts) > 50
    for one in texts:
        if (found := contrast(one["ink"], one["base"])) < 4.5:
            said.append(f"contrast {found:.1f} of {one['text']!r}")
        if one["pixels"] < 10:
            said.append(f"{one['text']!r} is {one['pixels']:.1f} pixels high")
        if one["box"]:
            left, top, right, bottom = one["box"]
            if left < -1 or top < -1 or right > one["frame"][0] + 1 or bottom > one["frame"][1] + 1:
                said.append(f"{one['text']!r} is cut")
    level = [one for one in texts if one["box"] and one["level"]]
    for k, one in enumerate(level):
        for other in level[:k]:
            (l1, t1, r1, b1), (l2, t2, r2, b2) = one["box"], other["box"]
            # a box is as high as its font may be, letters are less
            apart = min(r1, r2) - max(l1, l2) < 1 or min(b1, b2) - max(t1, t2) < 0.35 * min(b1 - t1, b2 - t2)
            if one["drawing"] == other["drawing"] and not apart:
                said.append(f"{one['text']!r} lies on {other['text']!r}")
    return said


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
@pytest.mark.parametrize("width", WIDTHS)
def test_the_page_is_well_on_a_phone_and_on_a_desk_light_and_dark(
    window: chromium.Browser, disagreeing: Results, faces_csv: Faces, tmp_path: Path, width: str, dark: bool
) -> None:
    made(disagreeing, tmp_path, faces_csv)
    assert faults(window, tmp_path / "results.html", *WIDTHS[width], dark) == []
    if width == "phone":
        inner = window.run("const b = document.querySelector('.scroll'); return [b.scrollWidth, b.clientWidth]")
        assert inner[0] > inner[1]  # the table scrolls, the page does not


def test_a_strangers_text_is_shown_letter_by_letter(window: chromium.Browser, merged: Results, tmp_path: Path) -> None:
    made(merged, tmp_path)
    assert faults(window, tmp_path / "results.html", *WIDTHS["phone"], False) == []
    assert window.run("return document.title") != "mine"
    shown = window.run("return document.querySelector('.alarm').innerText")
    assert HOSTILE.replace("\x00 ", "").split("$")[0] in shown
    assert "throttled while measuring" in shown
    drawn = window.run("return document.querySelector('#latency svg').textContent")
    assert "_<script>document.titl…" in drawn  # a name inside a plot is cut in its middle


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        (lambda page: page.replace("</main>", "<script>throw 1</script></main>"), "console: "),
        (lambda page: page.replace("</main>", "<img src='nothing.png'></main>"), "1 broken images"),
        (lambda page: re.sub(r"(<svg [^>]*>).*?</svg>", r"\1</svg>", page, flags=re.DOTALL), " is blank"),
        (lambda page: page.replace("overflow-x: auto", "overflow: visible"), " pixels wide"),
        (lambda page: page.replace("--paper: #14171a", "--paper: #ffffff"), "background of 255"),
        (lambda page: page.replace("--quiet: #a3abb3", "--quiet: #57606a"), "contrast "),
        (lambda page: page.replace("svg { display: block; width: 100%", "svg { display: block; width: 60%"), " pixels high"),
        (lambda page: page.replace(">happy</text>", ">happy, or what is taken for it</text>"), " is cut"),
    ],
    ids=["script", "image", "blank", "wide", "white", "faint", "tiny", "cut"],
)  # fmt: skip
def test_what_would_trouble_a_reader_is_found(
    window: chromium.Browser, results: Results, tmp_path: Path, change: Callable[[str], str], complaint: str
) -> None:
    """The checks above, each on a page that it must not pass."""
    page = made(results, tmp_path)
    (tmp_path / "results.html").write_text(changed := change(page), encoding="utf-8")
    assert changed != page
    assert complaint in " ".join(faults(window, tmp_path / "results.html", *WIDTHS["phone"], True))


def test_rows_share_a_reliability_diagram_only_where_their_errors_are_the_same() -> None:
    bins = [[600, 480.0, 470], [1000, 900.0, 890]]
    one = {"images": 1600, "temperature": 1.0, "bins": {"raw": bins}, "calibration_error": {"raw": 0.012}}
    moved = [[601, 480.8, 471], [999, 899.2, 889]]
    assert plots._same_bins(one, one | {"bins": {"raw": moved}, "calibration_error": {"raw": 0.0125}})
    assert not plots._same_bins(one, one | {"bins": {"raw": moved}, "calibration_error": {"raw": 0.016}})
    others = [[650, 520.0, 505], [950, 860.0, 855]]
    assert not plots._same_bins(one, one | {"bins": {"raw": others}})
