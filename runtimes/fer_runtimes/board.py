"""What the machine is, and in what state it measures: JetPack, power mode, clocks, heat, throttling, power.

Everything is read below ``root``, so that a tree laid out like a board's can stand for the board.
What a machine does not tell is None: no figure is worth an error here, nor one made up.
"""

from __future__ import annotations

import importlib
import re
import subprocess
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

_ROOT = Path("/")

# Jetson Linux release (L4T) to JetPack, as NVIDIA's JetPack archive pairs them
# (developer.nvidia.com/embedded/jetpack-archive).
_JETPACK = {
    "36.3.0": "6.0",
    "36.4.0": "6.1",
    "36.4.3": "6.2",
    "36.4.4": "6.2.1",
    "36.5.0": "6.2.2",
    "38.2.0": "7.0",
    "38.2.1": "7.0",
    "38.4.0": "7.1",
    "39.2.0": "7.2",
}
# A release that the table does not know is told by its major version alone.
_JETPACK_MAJOR = {"32": "4", "34": "5", "35": "5", "36": "6", "38": "7", "39": "7"}

# Raspberry Pi's firmware: what each bit of get_throttled means now; sixteen bits higher, since boot
# (raspberrypi.com/documentation, vcgencmd).
_PI_BITS = ("under-voltage", "arm frequency capped", "throttled", "soft temperature limit")


def describe(root: Path = _ROOT) -> dict[str, Any]:
    """What stays the same while a benchmark runs.

    model: of the board, or of the PC; jetpack, l4t: versions on a Jetson; power_mode: of nvpmodel;
    governor: of the CPU clocks; clocks_limits_mhz: [lowest, highest] that the settings allow, by clock.
    """
    return {
        "model": _model(root),
        "jetpack": jetpack_version(root),
        "l4t": l4t_version(root),
        "power_mode": _power_mode(root),
        "governor": " ".join(sorted({text for path in _policies(root) if (text := text_of(path / "scaling_governor"))}))
        or None,
        "clocks_limits_mhz": _clocks(root, "min_freq", "max_freq"),
    }


def snapshot(root: Path = _ROOT, since: dict[str, Any] | None = None) -> dict[str, Any]:
    """The state of this moment; ``since`` is an earlier one, taken before a measurement.

    clocks_mhz, temperatures_c, power_w: by clock, zone and rail; energy_j: running counters, whose
    difference is what was used. throttle_events: counters since boot, by cause. throttled: whether a
    cause holds now or, given ``since``, has been counted between; None where the machine does not tell.
    """
    clocks = _clocks(root, "cur_freq")
    active, events = _throttling(root)
    earlier = (since or {}).get("throttle_events") or events
    told = active is not None or bool(events)
    return {
        "clocks_mhz": clocks and {name: values[0] for name, values in clocks.items()},
        "temperatures_c": _temperatures(root),
        "throttled": bool(active) or any(count > earlier.get(name, count) for name, count in events.items())
        if told
        else None,
        "throttle_events": events or None,
        "power_w": power_w(root) or (_jetson_stats() if root == _ROOT else None),
        "energy_j": energy_j(root),
    }


def l4t_version(root: Path = _ROOT) -> str | None:
    """Release of Jetson Linux as three numbers, e.g. ``36.4.3``; None on anything but a Jetson."""
    found = re.search(r"R(\d+) \(release\), REVISION: ([\d.]+)", text_of(root / "etc/nv_tegra_release") or "")
    return ".".join([found[1], *found[2].strip(".").split("."), "0"][:3]) if found else None


def jetpack_version(root: Path = _ROOT) -> str | None:
    """Version of JetPack, e.g. ``6.2``, or its major version alone for a release that is not in the table."""
    l4t = l4t_version(root)
    return l4t and (_JETPACK.get(l4t) or _JETPACK_MAJOR.get(l4t.split(".")[0]))


def _model(root: Path) -> str | None:
    if board := text_of(root / "proc/device-tree/model"):
        return board
    dmi = root / "sys/class/dmi/id"
    return " ".join(filter(None, (text_of(dmi / "sys_vendor"), text_of(dmi / "product_name")))) or None


def _power_mode(root: Path) -> str | None:
    # Warnings about fans may stand before the line; over ssh, /usr/sbin need not be in PATH.
    found = re.search(r"NV Power Mode: (\S+)", _output(root / "usr/sbin/nvpmodel", "-q") or "")
    return found[1] if found else None


def _policies(root: Path) -> list[Path]:
    return sorted((root / "sys/devices/system/cpu/cpufreq").glob("policy*"), key=_in_order)


def _clocks(root: Path, *names: str) -> dict[str, list[float]] | None:
    """Frequencies of the CPU's policies and of every devfreq device (on Jetson GPU and memory), MHz."""
    places = [(path, "scaling_", 1e3) for path in _policies(root)]
    places += [(path, "", 1e6) for path in sorted((root / "sys/class/devfreq").glob("*"))]
    found = {}
    for path, prefix, unit in places:
        values = [number_of(path / f"{prefix}{name}") for name in names]
        if None not in values:
            found[path.name] = [round(value / unit, 1) for value in values if value is not None]
    return found or None


def _temperatures(root: Path) -> dict[str, float] | None:
    found: dict[str, float] = {}
    for zone in sorted((root / "sys/class/thermal").glob("thermal_zone*"), key=_in_order):
        celsius = number_of(zone / "temp")  # a zone whose block is switched off (cv0 on Orin) cannot be read
        if celsius is not None:
            found[_name(zone / "type", found, zone.name)] = round(celsius / 1e3, 1)
    return found or None


def _throttling(root: Path) -> tuple[list[str] | None, dict[str, int]]:
    """Causes that hold now (None where nothing would tell), and counters since boot."""
    active: list[str] | None = None
    events: dict[str, int] = {}
    for device in sorted((root / "sys/class/thermal").glob("cooling_device*"), key=_in_order):
        kind, state = text_of(device / "type") or "", number_of(device / "cur_state")
        if kind.endswith("-alert") and state is not None:  # Jetson; fans and frequency steps are no alarm
            active = (active or []) + [kind] * (state > 0)
    for folder in _hwmon(root):
        for file in sorted(folder.glob("oc*_event_cnt")):  # Jetson Orin and later: over-current and under-voltage
            if (count := number_of(file)) is not None:
                events[file.name.split("_")[0]] = int(count)
    for kind in ("core", "package"):  # Intel
        files = (root / "sys/devices/system/cpu").glob(f"cpu*/thermal_throttle/{kind}_throttle_count")
        counts = [count for file in files if (count := number_of(file)) is not None]
        if counts:
            events[f"{kind} thermal"] = int(sum(counts))
    bits = _pi_bits(root)
    if bits is not None:
        active = (active or []) + [name for i, name in enumerate(_PI_BITS) if bits >> i & 1]
        events |= {name: bits >> (i + 16) & 1 for i, name in enumerate(_PI_BITS)}
    return active, events


def _pi_bits(root: Path) -> int | None:
    file = next(iter(sorted((root / "sys/devices/platform").glob("soc*/*firmware*/get_throttled"))), None)
    text = text_of(file) if file else _output(root / "usr/bin/vcgencmd", "get_throttled")
    try:
        return int((text or "").rpartition("=")[2], 16)
    except ValueError:
        return None


def power_w(root: Path = _ROOT) -> dict[str, float] | None:
    """Power by rail from the monitors that the kernel drives: INA3221 gives voltage and current, INA238 power."""
    found: dict[str, float] = {}
    for folder in _hwmon(root):
        if not (text_of(folder / "name") or "").startswith("ina"):  # a battery or a graphics card is no board
            continue
        for file in sorted(folder.glob("power*_input")):
            if (microwatts := number_of(file)) is not None:
                label = folder / file.name.replace("_input", "_label")
                found[_name(label, found, text_of(folder / "name") or folder.name)] = round(microwatts / 1e6, 3)
        if not (text_of(folder / "name") or "").startswith("ina3221"):
            continue
        for file in sorted(folder.glob("in*_label")):
            label_text, number = text_of(file) or "", file.name[2:-6]
            volts, amperes = number_of(folder / f"in{number}_input"), number_of(folder / f"curr{number}_input")
            # "NC" is a channel that is not connected, the seventh sums shunt voltages: neither is a rail
            if volts is not None and amperes is not None and label_text != "NC" and "shunt" not in label_text:
                found[_name(file, found, file.name)] = round(volts * amperes / 1e6, 3)
    return found or None


def _jetson_stats() -> dict[str, float] | None:
    """Rails as jetson-stats' service tells them, for a board whose monitors the kernel does not show."""
    if find_spec("jtop") is None:
        return None
    try:
        with importlib.import_module("jtop").jtop() as board:
            rails = board.power["rail"] if board.ok() else {}
            return {name: values["power"] / 1e3 for name, values in rails.items()} or None
    except Exception:  # the service is off, or of another version: a missing figure must not cost the run
        return None


def energy_j(root: Path = _ROOT) -> dict[str, float] | None:
    """RAPL's counters of Intel and AMD; most systems let only root read them."""
    found: dict[str, float] = {}
    for domain in sorted((root / "sys/class/powercap").glob("intel-rapl:*")):
        if (microjoules := number_of(domain / "energy_uj")) is not None:
            found[_name(domain / "name", found, domain.name)] = round(microjoules / 1e6, 3)
    return found or None


def _hwmon(root: Path) -> Iterator[Path]:
    return iter(sorted((root / "sys/class/hwmon").glob("hwmon*"), key=_in_order))


def _in_order(path: Path) -> tuple[int, str]:
    """cooling_device10 after cooling_device2."""
    return len(path.name), path.name


def _name(file: Path, taken: dict[str, float], otherwise: str) -> str:
    """What a sensor calls itself; a second one of the same name is numbered."""
    name = text_of(file) or otherwise
    return name if name not in taken else f"{name} {sum(key.startswith(name) for key in taken) + 1}"


def text_of(path: Path) -> str | None:
    """A small file's text, or None if it is absent, unreadable or empty. The device tree's strings end with NUL."""
    try:
        return path.read_bytes().decode("utf-8", "replace").replace("\0", "").strip() or None
    except OSError:
        return None


def number_of(path: Path) -> float | None:
    """A small file's number, or None if it holds none."""
    try:
        return float(text_of(path) or "")
    except ValueError:
        return None


def _output(program: Path, *arguments: str) -> str | None:
    try:
        done = subprocess.run(
            [str(program), *arguments], capture_output=True, text=True, timeout=10, stdin=subprocess.DEVNULL
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout if done.returncode == 0 else None
