"""Energy meters on made-up systems."""

from __future__ import annotations

from pathlib import Path

import pytest

from bench.energy import (
    NvidiaMeter,
    PowerSampler,
    RaplMeter,
    SeveralMeters,
    hidden_meter,
    integrate,
    parse_pmic_watts,
    readable_rapl_domains,
)

PMIC = """\
 3V7_WL_SW_A current(0)=0.10000000A
   VDD_CORE_A current(7)=2.00000000A
  3V7_WL_SW_V volt(8)=3.70000000V
   VDD_CORE_V volt(15)=0.90000000V
       EXT5V_V volt(24)=5.10000000V
"""


def _domain(root: Path, folder: str, name: str, microjoules: int) -> Path:
    path = root / "sys/class/powercap" / folder
    path.mkdir(parents=True)
    (path / "name").write_text(f"{name}\n")
    (path / "energy_uj").write_text(f"{microjoules}\n")
    (path / "max_energy_range_uj").write_text("1000000\n")
    return path


def test_only_packages_and_memory_are_counted_so_that_nothing_is_twice(tmp_path: Path) -> None:
    _domain(tmp_path, "intel-rapl:0", "package-0", 1)
    _domain(tmp_path, "intel-rapl:0:0", "core", 1)
    _domain(tmp_path, "intel-rapl:0:1", "dram", 1)
    _domain(tmp_path, "intel-rapl:1", "psys", 1)
    _domain(tmp_path, "intel-rapl-mmio:0", "package-0", 1)
    assert [path.name for path in readable_rapl_domains(tmp_path)] == ["intel-rapl:0", "intel-rapl:0:1"]


def test_a_meter_that_only_an_administrator_may_read_is_said(tmp_path: Path) -> None:
    assert hidden_meter(tmp_path) is None
    domain = _domain(tmp_path, "intel-rapl:0", "package-0", 1)
    assert hidden_meter(tmp_path) is None
    (domain / "energy_uj").unlink()
    (domain / "energy_uj").mkdir()  # which nobody can read as a file, not even an administrator
    told = hidden_meter(tmp_path)
    assert told and told.startswith("Energy is counted (RAPL) but only an administrator may read it")


def test_joules_are_what_a_counter_went_up_by_also_when_it_wrapped_around(tmp_path: Path) -> None:
    first, second = (
        _domain(tmp_path, "intel-rapl:0", "package-0", 500),
        _domain(tmp_path, "intel-rapl:1", "package-1", 999_000),
    )
    meter = RaplMeter([first, second])
    meter.start()
    (first / "energy_uj").write_text("1500\n")
    (second / "energy_uj").write_text("2000\n")
    assert meter.stop() == pytest.approx((1000 + 3000) / 1e6)


class _FakeNvidia:
    def __init__(self) -> None:
        self.millijoules = [1000, 5000]

    def nvmlDeviceGetCount(self) -> int:  # noqa: N802 - the library's names
        return 2

    def nvmlDeviceGetHandleByIndex(self, index: int) -> int:  # noqa: N802
        return index

    def nvmlDeviceGetTotalEnergyConsumption(self, card: int) -> int:  # noqa: N802
        return self.millijoules[card]


def test_cards_are_added_up() -> None:
    library = _FakeNvidia()
    meter = NvidiaMeter(library)
    meter.start()
    library.millijoules = [3000, 5500]
    assert meter.stop() == pytest.approx(2.5)


def test_rails_that_tell_current_and_voltage_are_added_up() -> None:
    assert parse_pmic_watts(PMIC) == pytest.approx(0.37 + 1.8)
    assert parse_pmic_watts("EXT5V_V volt(24)=5.1V") is None
    assert parse_pmic_watts("") is None


def test_power_is_integrated_over_time() -> None:
    assert integrate([(0.0, 2.0), (1.0, 4.0), (3.0, 4.0)]) == pytest.approx(3 + 8)
    assert integrate([(0.0, 2.0)]) == 0.0


def test_a_sampler_of_power_counts_energy_of_what_lies_between_start_and_stop() -> None:
    meter = PowerSampler("made up", lambda: 5.0)
    for _ in range(2):
        meter.start()
        assert meter.stop() >= 0.0


def test_meters_of_different_parts_are_one() -> None:
    library = _FakeNvidia()
    meter = SeveralMeters([NvidiaMeter(library), PowerSampler("PMIC", lambda: 0.0)])
    meter.start()
    library.millijoules[0] += 7000
    assert (meter.name, meter.stop()) == ("NVML + PMIC", pytest.approx(7.0))
