"""What a machine says of its state and its energy, read from files laid out as the kernel has them."""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from attn_export import bundle
from attn_export.bundle import figures
from attn_export.deploy_tests.latency import energy_use
from attn_export.deploy_tests.latency.measure import Protocol
from attn_export.deploy_tests.machine import conditions, energy
from attn_export.deploy_tests.measurement import MeasureOptions, measure_bundle
from attn_export.pipeline.report import content
from attn_export.types import Array
from tests.deploy_tests.test_conformance import write
from tests.tools.run import run


def lay(root: Path, files: dict[str, object]) -> Path:
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(f"{text}\n")
    return root


CPU, HEAT = "sys/devices/system/cpu", "sys/class/thermal"


def test_a_machine_says_what_it_can_of_its_state(tmp_path: Path) -> None:
    assert conditions.read(tmp_path) == {}
    board: dict[str, object] = {
        f"{CPU}/cpufreq/policy0/scaling_cur_freq": 1800000,
        f"{CPU}/cpufreq/policy0/scaling_governor": "ondemand",
        f"{CPU}/cpufreq/policy10/scaling_cur_freq": 2400000,
        f"{CPU}/cpufreq/policy4/scaling_cur_freq": 600000,
        f"{CPU}/cpu0/thermal_throttle/core_throttle_count": 3,
        f"{CPU}/cpu1/thermal_throttle/core_throttle_count": 4,
        f"{HEAT}/thermal_zone0/temp": 48500,
        f"{HEAT}/thermal_zone0/type": "cpu-thermal",
        f"{HEAT}/thermal_zone1/temp": -256000,
        f"{HEAT}/thermal_zone2/temp": "nothing",
        "sys/devices/platform/soc/soc:firmware/get_throttled": "50000",
        "var/lib/nvpmodel/status": "pmode:0002",
    }
    assert conditions.read(lay(tmp_path, board)) == {
        "mhz": [1800.0, 600.0, 2400.0],
        "governors": ["ondemand"],
        "celsius": {"cpu-thermal (thermal_zone0)": 48.5},
        "throttled": 7,
        "firmware_throttled": "50000",
        "power_mode": "pmode:0002",
    }
    older = lay(tmp_path / "older", {f"{CPU}/cpu0/cpufreq/scaling_cur_freq": 1000000})
    assert conditions.read(older) == {"mhz": [1000.0]}


RAPL = "sys/class/powercap"
PACKAGES: dict[str, object] = {
    f"{RAPL}/intel-rapl:0/name": "package-0",
    f"{RAPL}/intel-rapl:0/energy_uj": 900,
    f"{RAPL}/intel-rapl:0/max_energy_range_uj": 999,
    f"{RAPL}/intel-rapl:1/name": "package-1",
    f"{RAPL}/intel-rapl:1/energy_uj": 10,
    f"{RAPL}/intel-rapl:1/max_energy_range_uj": 999,
    # Parts of a package, what is around it, and the same once more.
    f"{RAPL}/intel-rapl:0:0/name": "core",
    f"{RAPL}/intel-rapl:0:0/energy_uj": 1,
    f"{RAPL}/intel-rapl:0:0/max_energy_range_uj": 999,
    f"{RAPL}/intel-rapl:2/name": "psys",
    f"{RAPL}/intel-rapl:2/energy_uj": 1,
    f"{RAPL}/intel-rapl:2/max_energy_range_uj": 999,
    f"{RAPL}/intel-rapl-mmio:0/name": "package-0",
    f"{RAPL}/intel-rapl-mmio:0/energy_uj": 1,
    f"{RAPL}/intel-rapl-mmio:0/max_energy_range_uj": 999,
}


def test_packages_are_counted_once_and_counters_begin_again(tmp_path: Path) -> None:
    found = energy.source(lay(tmp_path, PACKAGES))
    assert found is not None
    assert (found.name, found.covers, found.counts, len(found.files)) == ("rapl", "2 processor package(s)", True, 2)
    before = energy.counters(found)
    lay(tmp_path, {f"{RAPL}/intel-rapl:0/energy_uj": 100, f"{RAPL}/intel-rapl:1/energy_uj": 60})
    assert energy.joules(found, before, energy.counters(found)) == pytest.approx(250e-6)
    (tmp_path / RAPL / "intel-rapl:1/energy_uj").unlink()
    assert energy.joules(found, before, energy.counters(found)) is None
    assert energy.source(lay(tmp_path / "b", {f"{RAPL}/intel-rapl:0/name": "package-0"})) is None


HWMON = "sys/class/hwmon/hwmon3"
ORIN: dict[str, object] = {
    f"{HWMON}/name": "ina3221",
    f"{HWMON}/in1_label": "VDD_IN",
    f"{HWMON}/in1_input": 5000,
    f"{HWMON}/curr1_input": 1200,
    f"{HWMON}/in2_label": "VDD_CPU_GPU_CV",
    f"{HWMON}/in2_input": 5000,
    f"{HWMON}/curr2_input": 400,
}
NANO: dict[str, object] = {
    "sys/bus/i2c/drivers/ina3221x/6-0040/iio:device0/rail_name_0": "POM_5V_IN",
    "sys/bus/i2c/drivers/ina3221x/6-0040/iio:device0/in_power0_input": 2500,
    "sys/bus/i2c/drivers/ina3221x/6-0040/iio:device0/rail_name_1": "POM_5V_GPU",
    "sys/bus/i2c/drivers/ina3221x/6-0040/iio:device0/in_power1_input": 100,
}
BAT = "sys/class/power_supply/BAT0"
GAUGE: dict[str, object] = {f"{BAT}/type": "Battery", f"{BAT}/status": "Discharging", f"{BAT}/power_now": 7250000}
AMPERES: dict[str, object] = {
    f"{BAT}/type": "Battery",
    f"{BAT}/status": "Discharging",
    f"{BAT}/current_now": -500000,  # some gauges count what flows out as less than nothing
    f"{BAT}/voltage_now": 12000000,
}


@pytest.mark.parametrize(
    ("files", "name", "watts"),
    [(ORIN, "ina3221", 6.0), (NANO, "ina3221", 2.5), (GAUGE, "battery", 7.25), (AMPERES, "battery", 6.0)],
    ids=["orin", "nano", "gauge", "amperes"],
)
def test_sensors_of_power(tmp_path: Path, files: dict[str, object], name: str, watts: float) -> None:
    found = energy.source(lay(tmp_path, files))
    assert found is not None
    assert (found.name, found.counts, energy.watts(found)) == (name, False, pytest.approx(watts))
    next(iter(found.files)).write_text("gone")
    assert energy.watts(found) is None


@pytest.mark.parametrize(
    "files",
    [
        {},
        {**GAUGE, f"{BAT}/status": "Charging"},
        {**GAUGE, f"{BAT}/type": "Mains"},
        {**ORIN, f"{HWMON}/name": "coretemp"},
        {name: text for name, text in ORIN.items() if "curr1" not in name},
    ],
)  # fmt: skip
def test_what_cannot_tell_says_nothing(tmp_path: Path, files: dict[str, object]) -> None:
    assert energy.source(lay(tmp_path, files)) is None


def test_a_board_comes_before_a_processor_and_a_battery_last(tmp_path: Path) -> None:
    names = []
    for files in (GAUGE, PACKAGES, ORIN):
        found = energy.source(lay(tmp_path, files))
        names.append(found and found.name)
    assert names == ["battery", "rapl", "ina3221"]


def quick(found: energy.Source | None, block: float) -> energy.Source:
    assert found is not None
    return energy.Source(found.name, found.covers, found.counts, block, found.files)


def test_the_energy_of_an_inference_is_what_was_counted_over_how_many_ran(tmp_path: Path) -> None:
    root = lay(tmp_path, {**PACKAGES, f"{RAPL}/intel-rapl:0/max_energy_range_uj": 10**9})
    counter, value = root / RAPL / "intel-rapl:0/energy_uj", [0]

    def model(_: Mapping[str, Array]) -> dict[str, Any]:
        value[0] += 2000
        counter.write_text(str(value[0]))
        return {}

    counter.write_text("0")
    found = energy_use.measure_energy(model, {}, quick(energy.source(root), 0.005), blocks=4)
    assert found is not None
    assert found.joules.estimate == pytest.approx(0.002)
    assert found.joules.low == pytest.approx(found.joules.high)
    assert (len(found.blocks_j), found.idle_watts) == (4, 0.0)
    assert found.inferences == value[0] / 2000
    assert found.summary().startswith("energy 2 mJ [2, 2] an inference, of 2 processor package(s) (rapl); idle 0 W")
    silent = quick(energy.source(lay(root, PACKAGES)), 0.001)
    counter.unlink()
    assert energy_use.measure_energy(lambda _: {}, {}, silent, blocks=2) is None


def test_power_times_time_is_energy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(energy_use, "_PERIOD", 0.002)
    source = quick(energy.source(lay(tmp_path, ORIN)), 0.02)

    def model(_: Mapping[str, Array]) -> dict[str, Any]:
        time.sleep(0.03)  # one in each block
        return {}

    found = energy_use.measure_energy(model, {}, source, blocks=3)
    assert found is not None
    assert found.joules.estimate * found.inferences == pytest.approx(6.0 * found.duration_s, rel=0.5)
    assert found.idle_watts == pytest.approx(6.0)


def test_a_report_holds_both_and_says_energy_only_where_it_was_measured(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = bundle.read(write(tmp_path / "one"))
    options = MeasureOptions(protocol=Protocol(0, duration=0.01, iterations=3), footprint=False)
    found = energy.source(lay(tmp_path, ORIN))
    monkeypatch.setattr(energy, "source", lambda: None)
    assert "energy" not in measure_bundle(whole, "onnxruntime", options).plain
    made = quick(found, 0.002)
    monkeypatch.setattr(energy, "source", lambda: made)
    plain = measure_bundle(whole, "onnxruntime", options).plain
    assert set(plain["conditions"]) == {"before", "after"}
    figures.check({"schema_version": bundle.SCHEMA_VERSION, "runs": [plain]}, "it")
    assert any("mJ" in line and "VDD_IN" in line for line in content.headline({}, {"runs": [plain]}))
    none = MeasureOptions(protocol=Protocol(0, duration=0.0, iterations=3), footprint=False)
    assert "energy" not in measure_bundle(whole, "onnxruntime", none).plain
    said = run("bench", tmp_path / "one", "--duration", "0.01", "--iterations", "3", "--warmup", "0").out
    assert "  energy " in said
    assert np.isfinite(plain["energy"]["joules"]["estimate"])
