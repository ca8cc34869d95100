"""Trees of files laid out as boards have them; contents as read on real boards of each kind."""

from __future__ import annotations

from pathlib import Path

import pytest

from fer_runtimes.board import describe, jetpack_version, l4t_version, snapshot

RELEASE = "# R36 (release), REVISION: 4.3, GCID: 38968081, BOARD: generic, EABI: aarch64, DATE: Wed Jan  8 01:49:37 UTC 2025\n# KERNEL_VARIANT: oot\n"

ORIN_NANO = {
    "proc/device-tree/model": "NVIDIA Jetson Orin Nano Engineering Reference Developer Kit Super\0",
    "etc/nv_tegra_release": RELEASE,
    "usr/sbin/nvpmodel": "#!/bin/sh\necho 'NVPM WARN: fan mode is not set!'\necho 'NV Power Mode: MAXN_SUPER'\necho 2\n",
    "sys/devices/system/cpu/cpufreq/policy0/scaling_governor": "schedutil\n",
    "sys/devices/system/cpu/cpufreq/policy0/scaling_cur_freq": "1510400\n",
    "sys/devices/system/cpu/cpufreq/policy0/scaling_min_freq": "729600\n",
    "sys/devices/system/cpu/cpufreq/policy0/scaling_max_freq": "1728000\n",
    "sys/class/devfreq/17000000.gpu/cur_freq": "306000000\n",
    "sys/class/devfreq/17000000.gpu/min_freq": "306000000\n",
    "sys/class/devfreq/17000000.gpu/max_freq": "1020000000\n",
    "sys/class/thermal/thermal_zone0/type": "cpu-thermal\n",
    "sys/class/thermal/thermal_zone0/temp": "63625\n",
    "sys/class/thermal/thermal_zone2/type": "cv0-thermal\n",  # powered down: no temp can be read
    "sys/class/thermal/thermal_zone8/type": "tj-thermal\n",
    "sys/class/thermal/thermal_zone8/temp": "64031\n",
    "sys/class/thermal/cooling_device0/type": "pwm-fan\n",
    "sys/class/thermal/cooling_device0/cur_state": "2\n",
    "sys/class/thermal/cooling_device1/type": "gpu-throttle-alert\n",
    "sys/class/thermal/cooling_device1/cur_state": "0\n",
    "sys/class/hwmon/hwmon0/name": "pwmfan\n",
    "sys/class/hwmon/hwmon1/name": "ina3221\n",
    "sys/class/hwmon/hwmon1/in1_label": "VDD_IN\n",
    "sys/class/hwmon/hwmon1/in1_input": "4984\n",
    "sys/class/hwmon/hwmon1/curr1_input": "1856\n",
    "sys/class/hwmon/hwmon1/in2_label": "NC\n",
    "sys/class/hwmon/hwmon1/in2_input": "5000\n",
    "sys/class/hwmon/hwmon1/curr2_input": "8\n",
    "sys/class/hwmon/hwmon1/in7_label": "sum of shunt voltages\n",
    "sys/class/hwmon/hwmon1/in7_input": "12\n",
    "sys/class/hwmon/hwmon1/curr7_input": "12\n",
    "sys/class/hwmon/hwmon3/name": "soctherm_oc\n",
    "sys/class/hwmon/hwmon3/oc1_event_cnt": "0\n",
    "sys/class/hwmon/hwmon3/oc3_event_cnt": "2\n",
}
THOR = {
    "proc/device-tree/model": "NVIDIA Jetson AGX Thor Developer Kit\0",
    "etc/nv_tegra_release": "# R38 (release), REVISION: 2.2, GCID: 42205042, BOARD: generic, EABI: aarch64, DATE: Thu Sep 25 22:47:11 UTC 2025\n",
    "sys/class/devfreq/gpu-gpc-0/cur_freq": "1575000000\n",
    "sys/class/devfreq/bwmgr/cur_freq": "4266000000\n",
    "sys/class/hwmon/hwmon2/name": "ina238\n",
    "sys/class/hwmon/hwmon2/power1_input": "22104000\n",
}
PI = {
    "proc/device-tree/model": "Raspberry Pi 5 Model B Rev 1.0\0",
    "usr/bin/vcgencmd": "#!/bin/sh\necho throttled=0x50000\n",
    "sys/class/thermal/thermal_zone0/type": "cpu-thermal\n",
    "sys/class/thermal/thermal_zone0/temp": "58400\n",
}
PC = {
    "sys/class/dmi/id/sys_vendor": "LENOVO\n",
    "sys/class/dmi/id/product_name": "21CB\n",
    "sys/devices/system/cpu/cpu0/thermal_throttle/core_throttle_count": "3\n",
    "sys/devices/system/cpu/cpu1/thermal_throttle/core_throttle_count": "4\n",
    "sys/class/powercap/intel-rapl:0/name": "package-0\n",
    "sys/class/powercap/intel-rapl:0/energy_uj": "262143000000\n",
}


def lay(root: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        if text.startswith("#!"):
            path.chmod(0o755)
    return root


def test_an_orin_nano_tells_all(tmp_path: Path) -> None:
    board = lay(tmp_path, ORIN_NANO)
    assert describe(board) == {
        "model": "NVIDIA Jetson Orin Nano Engineering Reference Developer Kit Super",
        "jetpack": "6.2",
        "l4t": "36.4.3",
        "power_mode": "MAXN_SUPER",
        "governor": "schedutil",
        "clocks_limits_mhz": {"policy0": [729.6, 1728.0], "17000000.gpu": [306.0, 1020.0]},
    }
    assert snapshot(board) == {
        "clocks_mhz": {"policy0": 1510.4, "17000000.gpu": 306.0},
        "temperatures_c": {"cpu-thermal": 63.6, "tj-thermal": 64.0},
        "throttled": False,
        "throttle_events": {"oc1": 0, "oc3": 2},
        "power_w": {"VDD_IN": 9.25},
        "energy_j": None,
    }


def test_a_thor_names_its_clocks_and_rails_otherwise(tmp_path: Path) -> None:
    board = lay(tmp_path, THOR)
    assert (describe(board)["jetpack"], describe(board)["l4t"]) == ("7", "38.2.2")  # in no table: the major version
    seen = snapshot(board)
    assert seen["clocks_mhz"] == {"bwmgr": 4266.0, "gpu-gpc-0": 1575.0}
    assert seen["power_w"] == {"ina238": 22.104}
    assert seen["throttled"] is None


def test_throttling_between_two_moments_is_told_though_it_is_over(tmp_path: Path) -> None:
    board = lay(tmp_path, ORIN_NANO)
    before = snapshot(board)
    assert snapshot(board, before)["throttled"] is False
    lay(tmp_path, {"sys/class/hwmon/hwmon3/oc3_event_cnt": "9\n"})
    assert snapshot(board)["throttled"] is False
    assert snapshot(board, before)["throttled"] is True


def test_an_alert_that_holds_now_is_throttling(tmp_path: Path) -> None:
    board = lay(tmp_path, ORIN_NANO | {"sys/class/thermal/cooling_device1/cur_state": "1\n"})
    assert snapshot(board)["throttled"] is True


@pytest.mark.parametrize(
    ("bits", "now", "events"),
    [("0x0", False, 0), ("0x50000", False, 2), ("0x50005", True, 2), ("0x80008", True, 1)],
)
def test_a_raspberry_tells_by_bits(tmp_path: Path, bits: str, now: bool, events: int) -> None:
    board = lay(tmp_path, PI | {"usr/bin/vcgencmd": f"#!/bin/sh\necho throttled={bits}\n"})
    seen = snapshot(board)
    assert seen["throttled"] is now
    assert sum(seen["throttle_events"].values()) == events
    file = {"sys/devices/platform/soc@107c000000/soc@107c000000:firmware/get_throttled": bits.removeprefix("0x") + "\n"}
    assert snapshot(lay(tmp_path, file | {"usr/bin/vcgencmd": "#!/bin/sh\nexit 1\n"})) == seen


def test_a_pc_tells_its_name_its_counters_and_its_energy(tmp_path: Path) -> None:
    machine = lay(tmp_path, PC)
    assert describe(machine)["model"] == "LENOVO 21CB"
    seen = snapshot(machine)
    assert (seen["throttled"], seen["throttle_events"]) == (False, {"core thermal": 7})
    assert seen["energy_j"] == {"package-0": 262143.0}


def test_a_battery_and_a_graphics_card_are_no_rails(tmp_path: Path) -> None:
    machine = lay(
        tmp_path,
        {
            f"sys/class/hwmon/hwmon{i}/{file}": text
            for i, name in enumerate(("BAT0", "amdgpu"))
            for file, text in (("name", name), ("power1_input", "9000000"))
        },
    )
    assert snapshot(machine)["power_w"] is None


def test_what_is_absent_or_damaged_is_none_and_never_an_error(tmp_path: Path) -> None:
    assert set(describe(tmp_path).values()) == {None}
    assert set(snapshot(tmp_path).values()) == {None}
    board = lay(
        tmp_path, {name: "#!/bin/sh\nexit 3\n" if text.startswith("#!") else "?" for name, text in ORIN_NANO.items()}
    )
    assert jetpack_version(board) is None
    assert describe(board)["power_mode"] is None
    assert snapshot(board)["power_w"] is None
    assert snapshot(board)["throttled"] is None


@pytest.mark.parametrize(
    ("line", "l4t", "jetpack"),
    [
        ("# R36 (release), REVISION: 4.3, GCID: 1", "36.4.3", "6.2"),
        ("# R36 (release), REVISION: 3.0, GCID: 1", "36.3.0", "6.0"),
        ("# R36 (release), REVISION: 9.9, GCID: 1", "36.9.9", "6"),
        ("# R38 (release), REVISION: 4.0, GCID: 1", "38.4.0", "7.1"),
        ("# R35 (release), REVISION: 4.1, GCID: 1", "35.4.1", "5"),
        ("# R99 (release), REVISION: 1, GCID: 1", "99.1.0", None),
        ("nothing of the kind", None, None),
    ],
)
def test_releases_become_jetpack_versions(tmp_path: Path, line: str, l4t: str | None, jetpack: str | None) -> None:
    board = lay(tmp_path, {"etc/nv_tegra_release": line})
    assert (l4t_version(board), jetpack_version(board)) == (l4t, jetpack)


def test_this_machine_can_be_read() -> None:
    assert describe().keys() == describe(Path("/nowhere")).keys()
    assert snapshot(since=snapshot()).keys() == snapshot(Path("/nowhere")).keys()
