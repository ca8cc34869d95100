from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fer_bench.corruptions.views import View, seen_as
from fer_bench.plotting import inline_svg
from fer_runtimes.data import Faces
from fer_runtimes.errors import BadInput, NotAvailable
from fer_runtimes.labels import LABELS
from fer_runtimes.metrics import calibration_error
from peers.adapters.ort import corner_bilinear
from peers.environments import LAUNCHERS, SOURCES, Environments, Launch, last_line
from peers.measure import Failed, Settings, figures, measure, run, summarise
from peers.plot import plot
from peers.report import COLUMNS, caption, markdown
from peers.scores import accuracy, in_fer2013_order, missing_classes
from peers.table import PEERS, Peer
from peers.views import VIEWS

ADAPTERS = Path(sys.modules["peers.adapters.ort"].__file__ or "").parent
QUICK = Settings(threads=1, rounds=2, seconds=0.01, queries=5, varied=20)


# --- the table --------------------------------------------------------------------------------


@pytest.mark.parametrize("peer", PEERS, ids=lambda peer: peer.name)
def test_a_row_names_an_adapter_an_environment_and_classes_that_exist(peer: Peer) -> None:
    suffix = "mjs" if peer.environment == "node" else "py"
    assert (ADAPTERS / f"{peer.adapter}.{suffix}").is_file()
    assert peer.environment in LAUNCHERS
    assert peer.opens.partition(":")[0] in SOURCES
    assert missing_classes(peer.classes) == []
    assert len(set(peer.classes)) == len(peer.classes)
    assert peer.repeats is None or peer.repeats[0] in {other.name for other in PEERS}


def test_names_are_not_used_twice() -> None:
    assert len({peer.name for peer in PEERS}) == len(PEERS)


# --- classes and figures ----------------------------------------------------------------------


def test_answers_are_put_into_the_order_of_fer2013_and_foreign_classes_left_out() -> None:
    classes = ("neutral", "contempt", "happy", "sad", "angry", "fear", "disgust", "surprise")
    answers = np.array([[0.1, 0.5, 0.2, 0.05, 0.05, 0.04, 0.03, 0.03]])
    ordered = in_fer2013_order(answers, classes)
    assert ordered.sum() == pytest.approx(1)
    expected = [0.1, 0.06, 0.08, 0.4, 0.1, 0.06, 0.2]  # each twice: contempt held one half
    np.testing.assert_allclose(ordered[0], expected)


def test_a_class_that_a_peer_lacks_is_never_its_answer() -> None:
    classes = LABELS[:6]
    assert missing_classes(classes) == ["neutral"]
    assert in_fer2013_order(np.full((2, 6), 1 / 6), classes)[:, 6].tolist() == [0, 0]


@pytest.mark.parametrize("answers", [np.zeros((3, 6)), np.full((3, 7), np.nan)])
def test_answers_of_another_shape_or_not_finite_are_refused(answers: np.ndarray) -> None:
    with pytest.raises(ValueError, match="answers are"):
        in_fer2013_order(answers, LABELS)


def test_calibration_error_is_that_of_a_case_computed_by_hand() -> None:
    # bin (9/15, 10/15]: two images of confidence 0.65, one right: |0.5 - 0.65| = 0.15
    # bin (13/15, 14/15]: two images of confidence 0.9, both right: |1 - 0.9| = 0.1
    probabilities = np.full((4, 7), 0.0)
    probabilities[:, 0] = [0.65, 0.65, 0.9, 0.9]
    probabilities[:, 1] = 1 - probabilities[:, 0]
    labels = np.array([0, 1, 0, 0])
    assert calibration_error(probabilities, labels) == pytest.approx((2 * 0.15 + 2 * 0.1) / 4)
    certain = np.eye(7)
    assert calibration_error(certain, np.arange(7)) == 0
    assert calibration_error(certain, (np.arange(7) + 1) % 7) == 1


def test_a_bin_edge_belongs_to_the_bin_below_it() -> None:
    # 0.2 = 3/15 and 0.19 share a bin, so their errors of opposite sign cancel within it
    probabilities = np.full((2, 7), 0.1)
    probabilities[:, 0] = [0.2, 0.19]
    assert calibration_error(probabilities, np.array([0, 1])) == pytest.approx(abs(1 - 0.39) / 2)


# --- views ------------------------------------------------------------------------------------


def blob(x: float, y: float, side: int = 48) -> np.ndarray:
    """A bright round spot at (x, y), pixel centres at whole numbers."""
    rows, columns = np.mgrid[:side, :side]
    return (255 * np.exp(-((columns - x) ** 2 + (rows - y) ** 2) / 8)).round().astype(np.uint8)[None]


def place(image: np.ndarray) -> tuple[float, float]:
    rows, columns = np.mgrid[: image.shape[1], : image.shape[2]]
    weight = image[0] / image.sum()
    return float((columns * weight).sum()), float((rows * weight).sum())


@pytest.mark.parametrize(
    ("view", "to"),
    [
        (View(zoom=1.3), (23.5 + 13, 23.5)),
        (View(zoom=0.5), (23.5 + 5, 23.5)),
        (View(degrees=90), (23.5, 23.5 - 10)),  # to the right becomes up: counter-clockwise
        (View(degrees=-90), (23.5, 23.5 + 10)),
        (View(zoom=1.2, degrees=180), (23.5 - 12, 23.5)),
    ],
)
def test_zoom_and_rotation_move_a_spot_to_where_it_belongs(view: View, to: tuple[float, float]) -> None:
    np.testing.assert_allclose(place(seen_as(blob(33.5, 23.5), view)), to, atol=0.15)


def test_no_zoom_and_no_rotation_change_nothing(faces: Faces) -> None:
    assert seen_as(faces.images[:3], View()) is not None
    np.testing.assert_array_equal(seen_as(faces.images[:3], View()), faces.images[:3])
    turned = seen_as(faces.images[:3], View(degrees=360))
    assert np.abs(turned.astype(int) - faces.images[:3]).max() <= 1


def test_outside_the_face_its_rim_is_repeated() -> None:
    image = np.full((1, 48, 48), 90, np.uint8)
    assert np.unique(seen_as(image, View(zoom=0.7, degrees=15))).tolist() == [90]


def test_figures_read_the_views_in_the_order_in_which_they_are_shown() -> None:
    labels = np.array([0, 1, 2, 3])
    faces = Faces("x", "test", np.zeros((4, 48, 48), np.uint8), labels, "", seen=np.array([True, False, False, False]))
    chosen = np.array([1, 3])
    right, wrong = np.eye(7), np.roll(np.eye(7), 1, 0)
    # all right as they are; zoom 0.85 wrong on both, 1.15 on one, 1.3 on none; rotation wrong one way only
    parts = [right[labels], wrong[[1, 3]], [right[1], wrong[3]], right[[1, 3]], wrong[[1, 3]], right[[1, 3]]]
    found = figures(np.concatenate(parts), faces, chosen)
    assert found["accuracy"] == 1
    assert [found["robustness"][name] for name in VIEWS] == [0, 0.5, 1, 0.5]
    first_wrong = np.concatenate([wrong[labels[:1]], right[labels[1:]], *parts[1:]])
    assert figures(first_wrong, faces, chosen)["accuracy"] == 0.75
    assert figures(first_wrong, faces, chosen)["accuracy_unseen"] == 1


def test_tensorflow_js_resizes_from_the_corner() -> None:
    grow = corner_bilinear(64)
    ramp = np.arange(48, dtype=np.float32)
    np.testing.assert_allclose(grow @ ramp, np.minimum(np.arange(64) * 0.75, 47), atol=1e-5)
    np.testing.assert_allclose(grow.sum(1), 1, atol=1e-6)


def test_percentiles_are_over_all_rounds_and_a_p99_of_few_queries_is_refused() -> None:
    few = summarise([[1_000_000] * 300, [3_000_000] * 200])
    assert (few["p50"], few["p99"], few["count"], few["p50_of_rounds"]) == (1, None, 500, [1, 3])
    assert summarise([[1_000_000] * 655 + [9_000_000] * 7])["p99"] == 9


# --- processes --------------------------------------------------------------------------------


class Local(Environments):
    """Adapters of this test, run by this Python."""

    def __init__(self, folder: Path) -> None:
        super().__init__(None)
        self._folder = folder

    def launch(self, peer: Peer) -> Launch:
        if peer.environment != "own":
            return super().launch(peer)
        command, variables = self.own()
        return Launch(command, variables, peer.opens)


GOOD = """
import numpy as np
from peers.opened import Opened

def open_peer(opens, threads):
    def predict(images):
        answers = np.full((len(images), 7), 0.05)
        answers[np.arange(len(images)), images[:, 0, 0] % 7] = 0.7
        return answers
    return Opened(predict, 4, 1)
"""
BROKEN = "import a_package_that_is_not_there\n"
DIES = GOOD.replace(
    "    return Opened", "    import os, signal\n    os.kill(os.getpid(), signal.SIGKILL)\n    return Opened"
)
NARROW = GOOD.replace("(len(images), 7), 0.05", "(len(images), 8), 0.05")


@pytest.fixture
def local(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Local:
    """The worker finds these adapters beside its own."""
    home = tmp_path / "room" / "peers"
    shutil.copytree(ADAPTERS.parent, home, ignore=shutil.ignore_patterns("__pycache__"))
    for name, code in {"good": GOOD, "broken": BROKEN, "dies": DIES, "narrow": NARROW}.items():
        (home / "adapters" / f"{name}.py").write_text(code)
    monkeypatch.setattr("peers.environments.ROOMS", (home.parent, *sys.modules["peers.environments"].ROOMS))
    return Local(tmp_path)


def row(name: str, adapter: str = "good", **others: object) -> Peer:
    return replace(Peer(name, adapter, "own", "", "a test", "MIT"), **others)  # type: ignore[arg-type]


@pytest.fixture
def marked() -> Faces:
    """Forty images whose first pixel says their class."""
    images = np.zeros((42, 48, 48), np.uint8)
    images[:] = (np.arange(42) % 7)[:, None, None]
    return Faces("marked", "test", images, np.arange(42) % 7, "", seen=np.arange(42) < 7)


def test_a_peer_that_cannot_run_is_a_row_with_its_reason_and_costs_no_other(local: Local, marked: Faces) -> None:
    peers = [
        row(PEERS[0].name),
        row("broken", "broken"),
        row("dies", "dies"),
        row("narrow", "narrow"),
        row("away", environment="beside", opens="weights:a_net.onnx"),
        row("random", random_weights=True),
        row("mixed up", classes=tuple(reversed(LABELS)), repeats=(PEERS[0].name, 0.9)),
    ]
    results = json.loads(json.dumps(measure(peers, local, marked, QUICK), allow_nan=False))
    rows = {found["peer"]: found for found in results["results"]}
    assert list(rows) == [peer.name for peer in peers]
    assert all(found.keys() == rows["broken"].keys() for found in rows.values())
    assert rows[PEERS[0].name]["error"] is None
    assert rows[PEERS[0].name]["accuracy"] == 1
    assert rows[PEERS[0].name]["accuracy_unseen"] == 1
    assert [len(times) >= 5 for times in rows[PEERS[0].name]["times_ns"]] == [True, True]
    assert rows["broken"]["error"] == "ModuleNotFoundError: No module named 'a_package_that_is_not_there'"
    assert rows["dies"]["error"] == "died while it was measured (signal 9)"
    assert rows["narrow"]["error"].startswith("answers are [142, 8], expected [N, 7]")  # 42 and 5 views of 20
    assert "put a_net.onnx into the folder of --weights-dir" in rows["away"]["error"]
    assert rows["mixed up"]["error"].startswith(f"repeats the labels of {PEERS[0].name} on 14.29%")
    assert rows["random"]["accuracy"] is None

    page = markdown(results)
    assert page.count("\n| ") + 1 == 2 + 2  # heading, rule, and the two that ran
    assert "\n| random | a test | - | - |" in page
    for name in ("broken", "dies", "narrow", "away", "mixed up"):
        assert f"- {name} (a test): {rows[name]['error']}" in page
    for heading in COLUMNS:
        assert heading in page


def test_classes_that_do_not_match_are_said_below_the_table(local: Local, marked: Faces) -> None:
    peer = row(PEERS[0].name, classes=(*LABELS[:6], "contempt"))
    results = measure([peer], local, marked, QUICK)
    assert "has no class neutral." in caption(results)
    assert "has a further class, left out: contempt." in caption(results)
    assert results["results"][0]["accuracy"] == pytest.approx(6 / 7)


def test_a_timed_peer_is_bound_to_the_cores_that_were_asked_for(local: Local, marked: Faces, tmp_path: Path) -> None:
    check = "    import os\n    assert len(os.sched_getaffinity(0)) == threads\n    return Opened"
    told = GOOD.replace("    return Opened", check)
    (tmp_path / "room" / "peers" / "adapters" / "told.py").write_text(told)
    before = os.sched_getaffinity(0)
    found = measure([row("told", "told", random_weights=True)], local, marked, QUICK)["results"][0]
    assert found["error"] is None
    assert os.sched_getaffinity(0) == before


def test_a_peer_that_hangs_is_stopped(local: Local, tmp_path: Path) -> None:
    (tmp_path / "room" / "peers" / "adapters" / "hangs.py").write_text("import time\ntime.sleep(60)\n")
    np.zeros((1, 48, 48), np.uint8).tofile(tmp_path / "images")
    job = {"mode": "score", "images": str(tmp_path / "images"), "answers": str(tmp_path / "answers"), "threads": 1}
    peer = row("hangs", "hangs")
    with pytest.raises(Failed, match="gave no answer within 2 s"):
        run(peer, local.launch(peer), job, tmp_path, 2)


def test_an_environment_that_cannot_be_made_is_one_line_and_is_tried_again_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FER_CACHE", str(tmp_path))
    monkeypatch.setattr("peers.environments.BESIDE", (str(tmp_path / "no_such_package"),))
    environments = Environments(None)
    with pytest.raises(NotAvailable, match=r"^environment beside cannot be made: ERROR: .*no_such_package") as caught:
        environments.launch(row("x", environment="beside", opens="net:x"))
    assert "\n" not in str(caught.value)
    assert not list(tmp_path.glob("peers/*/ready"))


def test_the_plot_names_whoever_was_both_scored_and_timed() -> None:
    def peer(name: str, accuracy: float | None, error: str | None = None) -> dict[str, Any]:
        return {"peer": name, "accuracy": accuracy, "error": error, "latency_ms": None if error else {"p50": 0.5}}

    rows = [peer("fer-edge", 0.66), peer("another", 0.6), peer("unscored", None), peer("broken", 0.5, "no")]
    told = {"data": {"name": "fer2013", "split": "PublicTest"}, "settings": {"threads": 1}}
    drawn = inline_svg(plot({"results": rows, **told}))
    assert [name in drawn for name in ("fer-edge", "another", "unscored", "broken")] == [True, True, False, False]
    with pytest.raises(BadInput, match="nothing to plot"):
        plot({"results": rows[2:], **told})


def test_of_a_long_failure_the_line_with_the_error_is_kept() -> None:
    node = "node:internal:1\nthrow e;\n^\nError: Cannot find module 'x'\n    at f (g)\n\nNode.js v20.0.0\n"
    assert last_line(node) == "Error: Cannot find module 'x'"
    assert last_line("") == ""


# --- real peers -------------------------------------------------------------------------------


def test_our_own_row_answers_as_the_session_does(bundles: dict, faces: Faces, tmp_path: Path) -> None:  # type: ignore[type-arg]
    from fer_runtimes.images import prepare
    from fer_runtimes.session import open_session
    from peers.adapters.ours import open_peer

    bundle = bundles["onnx fp32"]
    with open_session(bundle, "onnxruntime") as session:
        logits = session.infer(prepare(faces.images, bundle.manifest.size, bundle.manifest.crop))
    answers = open_peer(bundle.path, 1).predict(faces.images)
    np.testing.assert_array_equal(answers.argmax(1), logits.argmax(1))
    np.testing.assert_allclose(answers.sum(1), 1)
    assert accuracy(answers, faces.labels) == (logits.argmax(1) == faces.labels).mean()


def test_an_onnx_file_of_the_zoos_shape_is_run_with_its_own_preprocessing(tmp_path: Path, faces: Faces) -> None:
    import onnx
    from onnx import TensorProto, helper

    from peers.adapters.ferplus import open_peer

    # eight scores: the mean of the 64x64 picture, times a weight each; only a batch of one, as in the zoo
    nodes = [
        helper.make_node("ReduceMean", ["Input3"], ["mean"], axes=[1, 2, 3], keepdims=0),
        helper.make_node("Unsqueeze", ["mean"], ["column"], axes=[1]),
        helper.make_node("MatMul", ["column", "weight"], ["scores"]),
    ]
    weight = helper.make_tensor("weight", TensorProto.FLOAT, [1, 8], np.linspace(0, 0.07, 8, dtype=np.float32))
    graph = helper.make_graph(
        nodes,
        "net",
        [helper.make_tensor_value_info("Input3", TensorProto.FLOAT, [1, 1, 64, 64])],
        [helper.make_tensor_value_info("scores", TensorProto.FLOAT, [1, 8])],
        [weight],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 11)], ir_version=8)
    onnx.save(model, tmp_path / "net.onnx")
    opened = open_peer(tmp_path / "net.onnx", 1)
    assert opened.parameters == 8
    answers = opened.predict(faces.images[:5])
    scores = faces.images[:5].mean((1, 2))[:, None] * np.linspace(0, 0.07, 8)
    expected = np.exp(scores) / np.exp(scores).sum(1, keepdims=True)
    np.testing.assert_allclose(answers, expected, atol=5e-3)


def test_classic_nets_are_of_their_published_size(faces: Faces) -> None:
    from peers.adapters.timm_eager import open_peer

    opened = open_peer(Path("resnet50"), 1)
    assert opened.parameters == 23_522_375  # 25.6 M less the 1000-class head, plus one of seven
    answers = opened.predict(faces.images[:2])
    assert answers.shape == (2, 7)
    np.testing.assert_allclose(answers.sum(1), 1, atol=1e-5)


def peers_are_ready() -> bool:
    """Whether ``make peers`` has made the npm folder already: this test does not fetch it."""
    home = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "fer-edge"
    return any(home.glob("peers/node-*/ready")) and shutil.which("node") is not None


@pytest.mark.skipif(not peers_are_ready(), reason="the npm folder of the peers is not here; make peers makes it")
@pytest.mark.parametrize("name", ["human", "face-api"])
def test_a_real_peer_from_npm_gives_probabilities(name: str, faces: Faces, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("FER_CACHE")
    peer = next(peer for peer in PEERS if peer.name == name)
    found = measure([peer], Environments(None), faces, QUICK)["results"][0]
    assert found["error"] is None
    assert found["parameters"] > 100_000
    assert 0 <= found["calibration_error"] <= 1


def test_the_command_says_what_is_wrong_in_one_line(tmp_path: Path) -> None:
    for arguments, text in (
        ([], "--data is missing"),
        (["--data", "x.csv", "--only", "nobody"], "peer 'nobody' is unknown; known are fer-edge,"),
        (["--data", str(tmp_path / "none.csv")], "no such file or folder"),
        (["--data", "x.csv", "--weights-dir", str(tmp_path / "none")], "no such folder"),
        (["--data", "x.csv", "--threads", "10000"], "this machine gives"),
    ):
        done = subprocess.run(
            [sys.executable, "-m", "peers", *arguments], capture_output=True, text=True, timeout=60, cwd=tmp_path
        )
        assert done.returncode == 2, done.stderr
        assert text in done.stderr
        assert done.stderr.startswith("error: ")
        assert done.stderr.count("\n") == 1


def test_the_command_lists_every_peer() -> None:
    done = subprocess.run([sys.executable, "-m", "peers", "--list"], capture_output=True, text=True, timeout=60)
    assert [line.split("  ")[0] for line in done.stdout.splitlines()] == [peer.name for peer in PEERS]
