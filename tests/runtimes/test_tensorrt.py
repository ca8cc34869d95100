"""TensorRT up to the driver: settings, keys, the cache of engines, and every refusal, none of which needs a GPU."""

from __future__ import annotations

import dataclasses
import importlib
import json
import logging
import os
import shutil
import subprocess
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from fer_runtimes import cuda
from fer_runtimes import session as sessions
from fer_runtimes.bundle import MANIFEST, Bundle, read_bundle, write_manifest
from fer_runtimes.engines.trt_build import check_version, stored_engine
from fer_runtimes.engines.trt_key import BuildSettings, EngineCache, EngineKey, differences, read_record
from fer_runtimes.errors import BadInput, NotAvailable
from fer_runtimes.session import Options, open_session, why_not

KEY = EngineKey(
    onnx_sha256="1" * 64,
    tensorrt="10.3.0",
    cuda_runtime="12.6",
    cuda_driver="12.6",
    driver="540.4.0",
    jetpack="6.2",
    gpu="Orin",
    compute_capability="8.7",
    precision="fp16",
    batch=(1, 1, 8),
    workspace_mib=256,
    dla_core=None,
    gpu_fallback=False,
    version_compatible=False,
    hardware_compatible=False,
    timing_cache_sha256=None,
)
OTHER: dict[str, Any] = {
    "onnx_sha256": "2" * 64,
    "tensorrt": "10.7.0",
    "cuda_runtime": "13.0",
    "cuda_driver": "13.0",
    "driver": "580.1.0",
    "jetpack": "7.2",
    "gpu": "NVIDIA L4",
    "compute_capability": "8.9",
    "precision": "fp32",
    "batch": (1, 4, 8),
    "workspace_mib": 512,
    "dla_core": 0,
    "gpu_fallback": True,
    "version_compatible": True,
    "hardware_compatible": True,
    "timing_cache_sha256": "3" * 64,
}
PLAN = b"an engine" * 100
LAYERS, PARITY = {"layers": 12}, {"error_ratio": 900.0}


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> EngineCache:
    monkeypatch.setenv("FER_CACHE", str(tmp_path / "cache"))
    return EngineCache("net-tensorrt-fp16")


def without_gpu() -> None:
    if cuda.why_no_gpu() is None:
        pytest.skip("there is an NVIDIA GPU here")


def test_an_engine_is_found_again_under_its_own_key(cache: EngineCache) -> None:
    cache.store(KEY, PLAN, LAYERS, PARITY)
    found = cache.find(dataclasses.replace(KEY))
    assert found is not None
    assert found.plan() == PLAN
    assert found.record["layers"] == LAYERS
    assert found.record["parity"] == PARITY


def test_every_field_of_the_key_is_tried() -> None:
    assert set(OTHER) == {field.name for field in dataclasses.fields(EngineKey)}


@pytest.mark.parametrize("field", OTHER)
def test_an_engine_built_under_another_key_is_not_loaded_and_the_field_is_named(cache: EngineCache, field: str) -> None:
    cache.store(KEY, PLAN, LAYERS, PARITY)
    other = dataclasses.replace(KEY, **{field: OTHER[field]})
    assert cache.find(other) is None
    assert cache.why_missing(other).startswith(f"engine is rebuilt: {field} ")
    assert "," not in cache.why_missing(other).replace(", 1", "").replace(", 4", "").replace(", 8", "")
    assert other.digest != KEY.digest


def test_a_record_that_was_moved_under_another_key_is_not_believed(cache: EngineCache) -> None:
    stored = cache.store(KEY, PLAN, LAYERS, PARITY)
    other = dataclasses.replace(KEY, tensorrt="10.7.0")
    for suffix in (".engine", ".json"):
        shutil.copy(stored.file.with_suffix(suffix), cache._file(other, suffix))
    assert cache.find(other) is None


def test_a_miss_is_told_in_one_line(cache: EngineCache) -> None:
    assert cache.why_missing(KEY) == "engine is built for Orin, TensorRT 10.3.0; this can take minutes"
    cache.store(dataclasses.replace(KEY, gpu="NVIDIA L4", tensorrt="11.0.0", precision="fp32"), PLAN, LAYERS, PARITY)
    cache.store(KEY, PLAN, LAYERS, PARITY)
    newer = dataclasses.replace(KEY, tensorrt="10.7.0", onnx_sha256="4" * 64)
    assert cache.why_missing(newer) == (
        "engine is rebuilt: onnx_sha256 111111111111 -> 444444444444, tensorrt 10.3.0 -> 10.7.0"
    )


def test_an_altered_engine_is_not_loaded(
    cache: EngineCache, bundles: dict[str, Bundle], caplog: pytest.LogCaptureFixture
) -> None:
    bundle = bundles["tensorrt fp16"]
    own = EngineCache(bundle.manifest.name)
    stored = own.store(KEY, PLAN, LAYERS, PARITY)
    with caplog.at_level(logging.WARNING):
        found = stored_engine(bundle, KEY)
    assert found is not None
    assert found.plan() == PLAN
    assert caplog.text == ""
    raw = bytearray(PLAN)
    raw[100] ^= 1
    stored.file.write_bytes(raw)
    with pytest.raises(BadInput, match="is not the engine that was built"):
        stored.plan()
    with caplog.at_level(logging.WARNING):
        assert stored_engine(bundle, KEY) is None
    assert "it is not loaded, engine is rebuilt" in caplog.text
    assert not stored.file.exists()


@pytest.mark.parametrize("content", ["", '{"format": 1, "key": {', "[]", '{"format": 2}', '{"format": 1, "key": []}'])
def test_a_record_cut_short_or_of_another_kind_is_as_good_as_none(cache: EngineCache, content: str) -> None:
    stored = cache.store(KEY, PLAN, LAYERS, PARITY)
    record = stored.file.with_suffix(".json")
    record.write_text(content)
    assert read_record(record) is None
    assert cache.find(KEY) is None
    assert "engine is built for Orin" in cache.why_missing(KEY)


def test_an_engine_without_a_record_and_a_record_without_an_engine_are_none(cache: EngineCache) -> None:
    stored = cache.store(KEY, PLAN, LAYERS, PARITY)
    stored.file.unlink()
    assert cache.find(KEY) is None
    assert cache.why_missing(KEY) == "engine is rebuilt: its file is missing"
    stored = cache.store(KEY, PLAN, LAYERS, PARITY)
    stored.file.with_suffix(".json").unlink()
    assert cache.find(KEY) is None


def test_a_build_that_dies_while_it_is_kept_leaves_nothing_that_loads(
    cache: EngineCache, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache.store(KEY, PLAN, LAYERS, PARITY)

    def die(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(json, "dumps", die)
    with pytest.raises(KeyboardInterrupt):
        cache.store(KEY, b"another engine", LAYERS, PARITY)
    monkeypatch.undo()
    assert EngineCache("net-tensorrt-fp16").find(KEY) is None


def test_engines_are_readable_to_their_owner_alone(cache: EngineCache, tmp_path: Path) -> None:
    for folder in (cache.folder, cache.folder.parent):
        assert folder.stat().st_mode & 0o777 == 0o700
    cache.folder.chmod(0o777)
    EngineCache("net-tensorrt-fp16")
    assert cache.folder.stat().st_mode & 0o777 == 0o700


def test_a_cache_that_belongs_to_another_user_is_refused(cache: EngineCache) -> None:
    if os.getuid() != 0:
        pytest.skip("only root can give a folder away")
    os.chown(cache.folder, 12345, -1)
    with pytest.raises(BadInput, match="belongs to another user, and engines are native code"):
        EngineCache("net-tensorrt-fp16")


def test_a_name_that_reaches_outside_stays_inside(cache: EngineCache) -> None:
    assert EngineCache("../../../etc").folder.parent == cache.folder.parent


def test_differences_are_between_what_was_recorded_and_what_is_here(cache: EngineCache) -> None:
    stored = cache.store(KEY, PLAN, LAYERS, PARITY)
    record = read_record(stored.file.with_suffix(".json"))
    assert record is not None
    assert differences(record["key"], KEY) == []
    del record["key"]["jetpack"]
    assert differences(record["key"], KEY) == ["jetpack none -> 6.2"]


@pytest.mark.parametrize(
    ("settings", "complaint"),
    [
        ({"precision": "fp8"}, "precision is 'fp8', TensorRT builds fp32, fp16, int8"),
        ({"batch": (0, 1, 8)}, "expected MIN OPT MAX"),
        ({"batch": (4, 1, 8)}, "expected MIN OPT MAX"),
        ({"batch": (1, 16, 8)}, "expected MIN OPT MAX"),
        ({"workspace_mib": 0}, "workspace is 0 MiB"),
        ({"dla_core": -1, "batch": (1, 1, 1)}, "DLA core is -1"),
        ({"dla_core": 0, "precision": "fp32", "batch": (1, 1, 1)}, "not in fp32; use --precision fp16"),
        ({"dla_core": 0}, "a DLA takes one batch size"),
    ],
)
def test_settings_that_no_engine_can_have_are_refused(settings: dict[str, Any], complaint: str) -> None:
    with pytest.raises(BadInput, match=complaint):
        BuildSettings(**{"precision": "fp16", **settings})


@pytest.mark.parametrize(
    ("build", "complaint"),
    [
        (None, "has no build settings"),
        ({}, "its build settings cannot be read"),
        ({"precision": "fp16", "batch": "1"}, "batch is"),
        ({"precision": "fp16", "batch": [1, 1, 8], "surprise": 1}, "its build settings cannot be read"),
        ({"precision": "fp32", "batch": [1, 1, 8]}, "is fp16, its build settings say fp32"),
    ],
)
def test_build_settings_of_a_stranger_are_checked(
    bundles: dict[str, Bundle], tmp_path: Path, build: Any, complaint: str
) -> None:
    copy = Path(shutil.copytree(bundles["tensorrt fp16"].path, tmp_path / "copy"))
    manifest = json.loads((copy / MANIFEST).read_text())
    (copy / MANIFEST).write_text(json.dumps({**manifest, "build": build}))
    with pytest.raises(BadInput, match=complaint):
        BuildSettings.of(read_bundle(copy))


def test_a_bundle_carries_its_settings(bundles: dict[str, Bundle]) -> None:
    assert BuildSettings.of(bundles["tensorrt fp16"]) == BuildSettings("fp16")
    assert bundles["onnx fp32"].manifest.build is None


@pytest.mark.parametrize(
    ("version", "refused"), [("8.5.2.2", True), ("10.2.0", True), ("10.3.0", False), ("11.1.0.1", False)]
)
def test_a_tensorrt_without_what_the_exporter_writes_is_refused(version: str, refused: bool) -> None:
    if refused:
        with pytest.raises(NotAvailable, match=r"too old, 10\.3 \(JetPack 6\) or newer"):
            check_version(version)
    else:
        check_version(version)


def test_refusals_come_in_order_each_in_one_line(monkeypatch: pytest.MonkeyPatch, bundles: dict[str, Bundle]) -> None:
    without_gpu()
    here = {"tensorrt": object(), "cuda.bindings": object()}

    def found(name: str) -> object | None:
        if name == "cuda.bindings" and name not in here:
            raise ModuleNotFoundError(name)  # as importlib does where there is no cuda at all
        return here.get(name)

    monkeypatch.setattr(sessions, "find_spec", found)
    assert why_not("tensorrt") == "runtime tensorrt cannot run here: no NVIDIA driver (libcuda.so.1 cannot be loaded)"
    del here["cuda.bindings"]
    assert str(why_not("tensorrt")).startswith("runtime tensorrt needs cuda.bindings, not installed here; pip install")
    here["cuda.bindings"] = object()
    del here["tensorrt"]
    assert str(why_not("tensorrt")).startswith("runtime tensorrt needs tensorrt, not installed here; pip install")
    with pytest.raises(NotAvailable, match="needs tensorrt"):
        open_session(bundles["tensorrt fp16"], "tensorrt")


def test_cuda_bindings_without_a_driver_say_so() -> None:
    without_gpu()
    pytest.importorskip("cuda.bindings.runtime")
    assert cuda.why_no_cuda() == "no NVIDIA driver (libcuda.so.1 cannot be loaded)"
    with pytest.raises(NotAvailable, match="no NVIDIA driver"):
        cuda.gpu()
    from cuda.bindings import runtime

    with pytest.raises(NotAvailable, match="cudaErrorInsufficientDriver"):
        cuda.checked(runtime.cudaMalloc(16))


@pytest.mark.parametrize("runtime", ["onnxruntime-cuda", "tensorrt", "tensorrt-rtx"])
def test_a_runtime_for_gpus_is_not_run_on_the_cpu_under_its_name(bundles: dict[str, Bundle], runtime: str) -> None:
    with pytest.raises(NotAvailable, match=f"runtime {runtime} runs on device cuda alone, not on 'cpu'"):
        open_session(bundles["tensorrt fp32"], runtime, Options(device="cpu"))


def test_the_version_of_the_kernel_module_is_read_where_it_is_told(tmp_path: Path) -> None:
    file = tmp_path / "version"
    file.write_text(
        "NVRM version: NVIDIA UNIX x86_64 Kernel Module  550.54.15  Tue Mar  5 22:23:56 UTC 2024\nGCC version:  12.2.0\n"
    )
    assert cuda.kernel_module_version(file) == "550.54.15"
    assert cuda.kernel_module_version(tmp_path / "absent") is None


def test_tensorrt_rtx_registers_up_to_the_driver(bundles: dict[str, Bundle]) -> None:
    """The real plugin, where it is installed: it loads its own libraries and stops at the driver."""
    pytest.importorskip("onnxruntime_ep_nv_tensorrt_rtx")
    without_gpu()
    from fer_runtimes.engines.rtx import RtxSession

    with pytest.raises(NotAvailable, match=r"TensorRT-RTX cannot be loaded .*libcuda\.so\.1"):
        RtxSession(bundles["onnx fp32"], Options(device="cuda"))
    assert "no NVIDIA driver" in str(why_not("tensorrt-rtx"))


@pytest.fixture
def with_engine(cache: EngineCache, bundles: dict[str, Bundle], tmp_path: Path) -> Bundle:
    """A bundle that brings an engine for ``KEY``; the cache itself is empty again."""
    if find_spec("fer_runtimes.signing") is None:
        pytest.skip("signed bundles are not part of this build")
    copy = Path(shutil.copytree(bundles["tensorrt fp16"].path, tmp_path / "copy"))
    stored = cache.store(KEY, PLAN, LAYERS, PARITY)
    shutil.copy(stored.file, copy / "model.engine")
    shutil.copy(stored.file.with_suffix(".json"), copy / "model.engine.json")
    cache.forget(KEY)
    return write_manifest(copy, read_bundle(bundles["tensorrt fp16"].path).manifest)


def test_an_engine_in_an_unsigned_bundle_is_not_loaded(with_engine: Bundle, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        assert stored_engine(with_engine, KEY) is None
    assert "is not signed, so its model.engine, native code, is not loaded" in caplog.text


def test_an_engine_in_a_bundle_signed_by_a_trusted_key_is_loaded_where_it_fits(
    with_engine: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    signing = importlib.import_module("fer_runtimes.signing")
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", tmp_path / "key"], check=True)
    signing.sign_bundle(with_engine.path, tmp_path / "key")
    monkeypatch.setenv("FER_TRUSTED_KEYS", str(tmp_path / "key.pub"))
    found = stored_engine(with_engine, KEY)
    assert found is not None
    assert found.plan() == PLAN
    with caplog.at_level(logging.WARNING):
        assert stored_engine(with_engine, dataclasses.replace(KEY, tensorrt="10.7.0")) is None
    assert "model.engine of the bundle does not fit here: tensorrt 10.3.0 -> 10.7.0" in caplog.text
    (tmp_path / "nobody").write_text("")
    monkeypatch.setenv("FER_TRUSTED_KEYS", str(tmp_path / "nobody"))
    with pytest.raises(BadInput):
        stored_engine(with_engine, KEY)
