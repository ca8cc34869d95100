from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from conftest import Command

from fer_runtimes.drawn import drawn_faces
from fer_runtimes.errors import BadInput, NotAvailable
from fer_train import loop
from fer_train.checkpoint import load_checkpoint
from fer_train.loop import RESUME, Epoch, faster, train
from fer_train.nets import FACE_NETS
from fer_train.recipe import Recipe


def test_training_learns(checkpoint: Path) -> None:
    metrics = load_checkpoint(checkpoint).metrics
    assert metrics["accuracy"] > 0.5  # chance is one in seven
    assert metrics["chosen_by"] == "last epoch"


def test_a_run_killed_and_resumed_ends_with_the_same_weights(tmp_path: Path, csv_file: Path, command: Command) -> None:
    recipe = tmp_path / "mine.toml"  # every kind of randomness that there is
    recipe.write_text('model = "fer_mobileone_xs"\nepochs = 6\nbatch_size = 16\nmixup = 0.3\ndrop_rate = 0.1\n[augment]\ncamera = 0.3')
    options = ["--data", csv_file, "--recipe", recipe, "--threads", 1]
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    done = command("fer-train", *options, "--out", whole)
    assert done.returncode == 0, done.stderr
    process = subprocess.Popen(
        [str(Path(sys.executable).parent / "fer-train"), *map(str, options), "--out", str(broken)],
        stderr=subprocess.PIPE,
    )
    deadline = time.monotonic() + 120
    while not (broken / "resume.pt").exists() and time.monotonic() < deadline:
        time.sleep(0.005)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    assert not (broken / "last.pt").exists() or load_checkpoint(broken / "last.pt").metrics["epoch"] < 6
    resumed = command("fer-train", "--resume", broken)
    assert resumed.returncode == 0, resumed.stderr
    for name in ("last.pt", "best.pt"):
        first, second = load_checkpoint(whole / name), load_checkpoint(broken / name)
        assert first.metrics == second.metrics
        assert all(torch.equal(first.state_dict[key], second.state_dict[key]) for key in first.state_dict)
    assert (whole / "log.jsonl").read_text().count("\n") == (broken / "log.jsonl").read_text().count("\n") == 6


@pytest.mark.skipif(shutil.which("g++") is None, reason="no C++ compiler here")
def test_a_compiled_run_learns_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(FACE_NETS, "tiny", ("sum", 1, 8, ((1, 8, 2), (1, 8, 2))))
    recipe, faces = Recipe(model="tiny", epochs=1, batch_size=35, lr=0.01), drawn_faces(70, 1)
    nets = []
    monkeypatch.setattr(loop, "faster", lambda net, device: nets.append(made := faster(net, device)) or made)
    plain, compiled = (
        train(recipe, faces, faces, tmp_path / str(how), compiled=how).state_dict for how in (False, True)
    )
    for key, value in plain.items():
        torch.testing.assert_close(compiled[key], value, rtol=1e-3, atol=1e-5)
    assert [hasattr(net, "_orig_mod") for net in nets] == [True]  # what torch.compile makes of a module


def test_compiling_needs_a_compiler(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CXX", "no-such-compiler")
    with pytest.raises(NotAvailable, match="needs a C\\+\\+ compiler, and no-such-compiler is not here"):
        faster(torch.nn.ReLU(), "cpu")


def test_a_run_begun_before_a_setting_existed_is_continued(tmp_path: Path) -> None:
    recipe = Recipe(model="fer_mobileone_xs", epochs=2, batch_size=32)
    faces = drawn_faces(70, 1)

    def stop(_: Epoch) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(recipe, faces, faces, tmp_path / "run", report=stop)
    state = torch.load(tmp_path / "run" / RESUME, weights_only=True)
    older = json.loads(state["recipe"])
    del older["quantise"]
    torch.save({**state, "recipe": json.dumps(older, sort_keys=True)}, tmp_path / "run" / RESUME)
    assert train(recipe, faces, faces, tmp_path / "run", resume=True).metrics["epoch"] == 2
    torch.save({**state, "recipe": json.dumps(older | {"lr": 0.05}, sort_keys=True)}, tmp_path / "run" / RESUME)
    with pytest.raises(BadInput, match="another recipe"):
        train(recipe, faces, faces, tmp_path / "run", resume=True)


def test_fine_tuning_begins_with_the_given_weights(checkpoint: Path, tmp_path: Path) -> None:
    recipe = Recipe(model="fer_mobileone_xs", epochs=1, batch_size=32, lr=1e-6, warmup=0)
    tuned = train(recipe, drawn_faces(70, 1), drawn_faces(140, 2), tmp_path / "run", start=checkpoint)
    assert tuned.metrics["began_with"]["epochs"] == 4
    assert tuned.metrics["accuracy"] > 0.5
    with pytest.raises(BadInput, match="do not fit"):
        train(
            Recipe(model="fer_repvgg_xs", epochs=1),
            drawn_faces(70, 1),
            drawn_faces(70, 2),
            tmp_path / "other",
            start=checkpoint,
        )


def test_a_folder_with_a_run_is_not_overwritten_and_options_may_not_change_on_resume(
    tmp_path: Path, command: Command
) -> None:
    run = tmp_path / "run"
    recipe = Recipe(model="fer_mobileone_xs", epochs=1, batch_size=32)
    train(recipe, drawn_faces(70, 1), drawn_faces(70, 2), run)
    with pytest.raises(BadInput, match="holds a run already"):
        train(recipe, drawn_faces(70, 1), drawn_faces(70, 2), run)
    with pytest.raises(BadInput, match="another data"):
        train(recipe, drawn_faces(70, 9), drawn_faces(70, 2), run, resume=True)


def test_a_device_that_is_not_here_is_an_error(tmp_path: Path) -> None:
    device = "cuda:99"
    with pytest.raises(NotAvailable, match="use --device cpu"):
        train(Recipe(model="fer_mobileone_xs", epochs=1), drawn_faces(70, 1), drawn_faces(70, 2), tmp_path, device)


def test_a_loss_that_is_not_a_number_stops_the_run(tmp_path: Path) -> None:
    recipe = Recipe(model="fer_mobileone_xs", epochs=2, batch_size=16, lr=1e12, warmup=0)
    with pytest.raises(BadInput, match="lower --lr"):
        train(recipe, drawn_faces(70, 1), drawn_faces(70, 2), tmp_path)


def test_a_size_that_a_net_does_not_take_is_an_error_before_any_epoch(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match=r"inception_v3 does not run on 48x48 faces .* larger --size"):
        train(Recipe(model="inception_v3", epochs=1), drawn_faces(70, 1), drawn_faces(70, 2), tmp_path)


def test_options_that_would_not_be_heeded_are_refused(tmp_path: Path, csv_file: Path, in_process: Command) -> None:
    run = tmp_path / "run"
    begun = in_process(
        *("fer-train", "--data", csv_file, "--model", "fer_mobileone_xs", "--epochs", 1, "--batch-size", 32),
        *("--out", run),
    )
    assert begun.returncode == 0, begun.stderr
    for options, complaint in [
        (("--resume", run, "--checkpoint", run / "last.pt"), "leave out --checkpoint"),
        (("--resume", run, "--validate-on", "PrivateTest"), "watches the default split"),
        (("--votes", csv_file, "--out", tmp_path / "a"), "give these with --data"),
        (("--validate-on", "test", "--out", tmp_path / "a"), "give these with --data"),
        (("calibrate", "fer_nano", "--data", csv_file), "name the new checkpoint with --out"),
    ]:
        done = in_process("fer-train", *options)
        assert done.returncode == 2
        assert complaint in done.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["run"]


def test_fine_tuning_takes_the_checkpoints_net_and_a_recipe_file_names_the_run(
    checkpoint: Path, csv_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, in_process: Command
) -> None:
    monkeypatch.chdir(tmp_path)
    tuned = in_process("fer-train", "--data", csv_file, "--checkpoint", checkpoint, "--epochs", 1, "--batch-size", 32)
    assert tuned.returncode == 0, tuned.stderr
    made = load_checkpoint(Path("runs/fer_mobileone_xs/last.pt"))
    assert made.recipe["augment"] == load_checkpoint(checkpoint).recipe["augment"]
    mine = tmp_path / "mine.toml"
    mine.write_text('model = "fer_mobileone_xs"\nepochs = 1\nbatch_size = 32\n')
    assert in_process("fer-train", "--data", csv_file, "--recipe", mine).stdout.strip() == "runs/mine/last.pt"
