"""The machine under the doctor's eyes: CPU, clock, heat, memory, time, on boxes made of files."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from appliance.doctor.bandwidth import Reading
from appliance.doctor.measuring import Measured, measure
from appliance.doctor.units import SERVICE
from appliance.tune.host.plan import AFFINITY
from tests import fake_machine
from tests.appliance.doctor import fake_box
from tests.appliance.doctor.fake_box import FakeBox, heat, meter, system_files
from tests.appliance.doctor.manifests import change, fix_sizes
from tests.fake_machine import CPUS, write

TUNE_BY_HAND = "sudo qwen-appliance tune host --apply"


def test_a_box_as_it_should_be_has_no_problem(n100: FakeBox) -> None:
    found = n100.examine()
    assert found.problems() == []
    notes = [one.id for one in found.all() if one.level.value == "note"]
    # The tiny model has no weights to tell of, and nobody is asked on port 0.
    assert notes == ["decode.weights", "calibration.file", "service.health"]
    assert found["cpu.model"].text == "Intel(R) N100, 4 cores, CPUs 0-3; on bare metal"
    assert found["cpu.flags"].text == "AVX2, AVX-VNNI"
    assert found.facts["cpu"]["used"] == "0-3"
    assert found["software.system"].text.startswith("Debian GNU/Linux 12 (bookworm), kernel 6.1")
    assert found["clock.governor"].text == "governor is performance"
    assert found.facts["software"]["systemd"] == 252


def test_every_problem_says_what_to_do(n100: FakeBox) -> None:
    write(n100.root, {f"{CPUS}/cpufreq/policy1/scaling_governor": "powersave"})
    write(n100.root, {"proc/meminfo": "MemTotal: 500000 kB\nMemAvailable: 100000 kB"})
    heat(n100.root, 4, celsius=99, times=50, ms=600_000)
    found = n100.examine()
    assert set(found.problems()) == {
        *("clock.governor", "heat.throttling", "heat.temperature", "memory.ram")
    }
    assert all(found[name].remedy for name in found.problems())


class TestClock:
    def test_powersave_under_a_running_service_is_a_problem(self, n100: FakeBox) -> None:
        write(n100.root, {f"{CPUS}/cpufreq/policy2/scaling_governor": "powersave"})
        finding = n100.examine()["clock.governor"]
        assert finding.level.value == "problem"
        assert finding.text == "governor is powersave while a service runs; wished: performance"
        assert finding.remedy == "sudo systemctl restart qwen-appliance-tune.service"

    def test_a_stopped_service_leaves_the_knobs_to_the_box(self, n100: FakeBox) -> None:
        write(n100.root, {f"{CPUS}/cpufreq/policy2/scaling_governor": "powersave"})
        for unit in n100.tools.units.values():
            unit["ActiveState"] = "inactive"
        finding = n100.examine()["clock.governor"]
        assert finding.level.value == "ok"
        assert finding.text == "governor is powersave; performance while the service runs"

    def test_without_units_it_can_be_set_by_hand(self, n100: FakeBox) -> None:
        n100.tools.units.clear()
        write(n100.root, {f"{CPUS}/intel_pstate/no_turbo": "1"})
        found = n100.examine()
        assert (found.level("clock.turbo"), found["clock.turbo"].remedy) == ("note", TUNE_BY_HAND)
        assert found["clock.turbo"].text == "turbo is off; wished while a service runs: on"
        assert "clock.cpu_affinity" not in found

    def test_a_virtual_machine_has_no_clock_to_set(self, virtual: FakeBox) -> None:
        finding = virtual.examine()["clock.governor"]
        assert finding.level.value == "note"
        assert "no control over clock rates" in finding.text

    def test_somebody_else_caps_the_clock(self, n100: FakeBox) -> None:
        write(n100.root, {f"{CPUS}/cpufreq/policy0/scaling_max_freq": "1800000"})
        write(n100.root, {f"{CPUS}/intel_pstate/max_perf_pct": "60"})
        found = n100.examine()
        assert found["clock.cap"].text == "the clock is capped at 1.8 of 3.4 GHz"
        assert "60 %" in found["clock.max_perf_pct"].text
        assert {"clock.cap", "clock.max_perf_pct"} <= set(found.problems())

    def test_a_drop_in_that_is_gone_is_a_problem(self, n100: FakeBox) -> None:
        (n100.root / AFFINITY).unlink()
        assert n100.examine().problems() == ["clock.cpu_affinity"]
        n100.tools.units[SERVICE]["ActiveState"] = "inactive"
        assert "clock.cpu_affinity" not in n100.examine()

    def test_where_the_service_really_runs(self, n100: FakeBox) -> None:
        n100.tools.units[SERVICE]["MainPID"] = "77"
        status = "Name:\tqwen\nCpus_allowed:\tf\nCpus_allowed_list:\t"
        write(n100.root, {"proc/77/status": status + "0-3\nMems_allowed:\t1"})
        assert n100.examine().level("clock.service_cpus") == "ok"
        write(n100.root, {"proc/77/status": status + "0,2"})
        found = n100.examine()
        assert found.problems() == ["clock.service_cpus"]
        assert found["clock.service_cpus"].text == "the service runs on CPUs 0,2; wished: 0-3"

    def test_a_profile_with_a_mistake_does_not_hide_the_rest(self, n100: FakeBox) -> None:
        write(n100.root, {"etc/qwen-appliance/tune.yaml": "governer:\n  value: x"})
        found = n100.examine()
        assert found.problems() == ["clock.profile"]
        assert "governer" in found["clock.profile"].text
        assert found.level("clock.governor") == "ok"

    def test_an_interruption_is_no_finding(self, n100: FakeBox) -> None:
        def interrupted() -> None:
            raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            n100.examine(meter(while_it_runs=interrupted))

    def test_what_nobody_foresaw_costs_one_section_only(self, n100: FakeBox) -> None:
        (n100.root / f"{CPUS}/cpufreq/policy-of-another-kind").mkdir()
        found = n100.examine()
        assert found.level("clock.failed") == "note"
        assert found["service.keys"]


class TestHeat:
    def test_much_throttling_since_boot(self, n100: FakeBox) -> None:
        heat(n100.root, 4, times=812, ms=90_000)
        finding = n100.examine()["heat.throttling"]
        assert finding.level.value == "problem"
        assert finding.text == "throttled 812 times since boot, 2.5% of the time"

    def test_a_little_throttling_since_boot(self, n100: FakeBox) -> None:
        heat(n100.root, 4, times=3, ms=200)
        assert n100.examine().level("heat.throttling") == "note"

    def test_throttling_under_the_doctors_own_load(self, n100: FakeBox) -> None:
        found = n100.examine(meter(while_it_runs=lambda: heat(n100.root, 4, times=1, ms=10)))
        assert "within one second" in found["heat.throttling"].text
        assert found.problems() == ["heat.throttling"]

    def test_trip_points_that_mean_something_count(self, n100: FakeBox) -> None:
        heat(n100.root, 4, celsius=78)
        assert n100.examine().level("heat.temperature") == "ok"
        zone = "sys/class/thermal/thermal_zone0"
        write(n100.root, {f"{zone}/trip_point_1_type": "hot", f"{zone}/trip_point_1_temp": "80000"})
        finding = n100.examine()["heat.temperature"]
        assert finding.level.value == "problem"
        assert finding.text == "x86_pkg_temp: 78 °C, limit 80 °C"

    def test_a_clock_that_stays_low_under_load(self, n100: FakeBox) -> None:
        for cpu in range(4):
            write(n100.root, {f"{CPUS}/cpufreq/policy{cpu}/scaling_cur_freq": "1500000"})
        finding = n100.examine()["heat.clock"]
        assert finding.level.value == "note"
        assert finding.text == (
            "under load the fastest core ran at 1.5 of 3.4 GHz, long-term power limit 15 W"
        )

    def test_a_virtual_machine_has_no_sensors(self, virtual: FakeBox) -> None:
        found = virtual.examine()
        assert (found.level("heat.throttling"), found.level("heat.temperature")) == ("note", "note")
        assert found.facts["heat"]["temperatures_c"] == {}


class TestMemory:
    def test_swap_that_is_on(self, n100: FakeBox) -> None:
        write(
            n100.root,
            {
                "proc/meminfo": "MemTotal: 7640000 kB\nMemAvailable: 6000000 kB\n"
                "SwapTotal: 1000000 kB\nSwapFree: 750000 kB"
            },
        )
        found = n100.examine()
        assert found.level("memory.swap") == "note"
        assert "0.3 GB of 1.0 GB used" in found["memory.swap"].text
        assert found.facts["memory"]["swap_used_bytes"] == 250000 * 1024

    @pytest.mark.parametrize(
        ("available_kb", "level"), [(400_000, "problem"), (524_320, "note"), (2_000_000, "ok")]
    )
    def test_room_for_the_service_and_for_a_copy(
        self, virtual: FakeBox, model: Path, available_kb: int, level: str
    ) -> None:
        with (model / "openvino_model.bin").open("ab") as weights:
            weights.truncate(20_000)
        fix_sizes(model)
        system_files(virtual.root, cpu="x", flags="sse2 avx2", available_kb=available_kb)
        assert virtual.examine(checksums=False).level("memory.ram") == level

    def test_a_containers_limit_is_what_counts(self, virtual: FakeBox) -> None:
        write(virtual.root, {"proc/self/cgroup": "0::/", "sys/fs/cgroup/memory.max": "200000000"})
        found = virtual.examine()
        assert found.facts["memory"]["limit_bytes"] == 200_000_000
        assert "may use 0.2 GB" in found["memory.ram"].text
        assert found.problems() == ["memory.ram"]
        assert "too little memory is free" in found["decode.bandwidth"].text

    def test_a_limit_of_version_1(self, virtual: FakeBox) -> None:
        limit = "sys/fs/cgroup/memory/a/memory.limit_in_bytes"
        write(virtual.root, {"proc/self/cgroup": "4:cpu,memory:/a/b\n0::/", limit: "300000000"})
        assert virtual.examine().facts["memory"]["limit_bytes"] == 300_000_000

    def test_a_box_that_serves_and_is_full(self, n100: FakeBox) -> None:
        system_files(n100.root, cpu="x", flags="avx2", available_kb=100_000)
        assert n100.examine().problems() == ["memory.ram"]

    def test_a_file_that_is_not_there_is_said(self, virtual: FakeBox) -> None:
        (virtual.root / "proc/meminfo").unlink()
        found = virtual.examine()
        assert found.level("memory.ram") == "note"
        assert found.level("decode.bandwidth") == "note"


class TestCpu:
    def test_a_hybrid_cpu_lends_its_performance_cores(self, tmp_path: Path) -> None:
        root = fake_machine.hybrid(tmp_path / "hybrid")
        system_files(root, cpu="13th Gen Intel(R) Core(TM) i5-1340P", flags=fake_box.FLAGS)
        asked: list[frozenset[int]] = []

        def watched(cpus: frozenset[int], buffer_bytes: int, watch: object) -> Reading:
            asked.append(cpus)
            return Reading(30e9, 1.0)

        box = FakeBox(root, num_cpus=12, settings={"server.port": "0"})
        found = box.examine(watched)
        assert found.facts["cpu"]["kinds"] == {"performance": "0-3", "efficiency": "4-11"}
        assert found["cpu.used"].text == (
            "the service uses CPUs 0-3: the performance cores of 0-11"
        )
        assert asked == [frozenset(range(4))]
        assert found["decode.bandwidth"].text.startswith("4 CPUs read 30.0 GB/s")

    def test_arm_has_numbers_and_features(self, virtual: FakeBox) -> None:
        write(
            virtual.root,
            {
                "proc/cpuinfo": "processor\t: 0\nFeatures\t: fp asimd asimddp\n"
                "CPU implementer\t: 0x41\nCPU part\t: 0xd0b",
                f"{CPUS}/cpu0/cpu_capacity": "446",
                f"{CPUS}/cpu1/cpu_capacity": "1024",
            },
        )
        found = virtual.examine()
        assert found["cpu.model"].text.startswith("Arm, implementer 0x41, part 0xd0b")
        assert found["cpu.flags"].text == "NEON, dot products"
        assert found.facts["cpu"]["kinds"] == {"capacity 446": "0", "capacity 1024": "1"}
        assert found.facts["cpu"]["used"] == "1"
        assert found.problems() == []

    def test_no_avx2_is_a_problem(self, virtual: FakeBox) -> None:
        system_files(virtual.root, cpu="Common KVM processor", flags="sse2 sse4_2 hypervisor")
        found = virtual.examine()
        assert found.problems() == ["cpu.flags"]
        assert "type `host`" in found["cpu.flags"].remedy

    def test_no_dot_products_is_a_note(self, virtual: FakeBox) -> None:
        system_files(virtual.root, cpu="Haswell", flags="sse2 avx2")
        assert virtual.examine().level("cpu.flags") == "note"


class TestDecode:
    def test_the_floor_is_weights_over_bandwidth(self, n100: FakeBox, model: Path) -> None:
        one_gather(model, num_bytes=494_000_000)
        found = n100.examine(meter(20e9), checksums=False)
        assert found.facts["decode"]["floor_ms"] == 24.7
        assert found.level("decode.floor") == "note"
        assert found["decode.floor"].text.startswith(
            "494 MB of weights per token: at best 24.7 ms per token, of a budget of 30 ms"
        )

    @pytest.mark.parametrize(("bytes_per_s", "level"), [(10e9, "problem"), (40e9, "ok")])
    def test_the_floor_against_the_budget(
        self, n100: FakeBox, model: Path, bytes_per_s: float, level: str
    ) -> None:
        one_gather(model, num_bytes=494_000_000)
        assert n100.examine(meter(bytes_per_s), checksums=False).level("decode.floor") == level

    def test_a_busy_box_is_not_blamed(self, n100: FakeBox, model: Path) -> None:
        one_gather(model, num_bytes=494_000_000)
        found = n100.examine(meter(10e9, cpu_share=0.4), checksums=False)
        assert found.problems() == []
        assert "had only 40% of their time" in found["decode.bandwidth"].text
        assert "or a quota is set" in found["decode.bandwidth"].text
        assert found.level("decode.floor") == "note"

    def test_who_else_works_is_named(self, n100: FakeBox) -> None:
        def used(ticks: int, fields: str = "S 1 1 1 0 -1 4194560 1 0 0 0") -> None:
            stat = f"{fields} {ticks} {ticks} 0 0 20 0 1"
            write(
                n100.root, {"proc/31/stat": f"31 (apt-get) (x)) {stat}", "proc/9/stat": "9 (idle"}
            )

        used(100)
        found = n100.examine(meter(10e9, lambda: used(150), cpu_share=0.4))
        assert found.facts["decode"]["busiest"] == "apt-get) (x), process 31"
        assert "process 31" in found["decode.bandwidth"].text

    def test_a_measurement_that_cannot_be_made_is_a_note(self, n100: FakeBox) -> None:
        def broken(*_: object) -> Reading:
            raise RuntimeError("NumPy was built with baseline optimizations: (X86_V2)")

        found = n100.examine(broken)
        assert found.level("decode.bandwidth") == "note"
        assert "X86_V2" in found["decode.bandwidth"].text

    def test_a_buffer_takes_an_eighth_of_what_is_free(self, virtual: FakeBox) -> None:
        asked: list[int] = []

        def watched(cpus: object, buffer_bytes: int, watch: object) -> Reading:
            asked.append(buffer_bytes)
            return Reading(1e9, 1.0)

        for available_kb in (800_000, 7_000_000):
            system_files(virtual.root, cpu="x", flags="avx2", available_kb=available_kb)
            virtual.examine(watched)
        assert asked == [800_000 * 1024 // 8, 256 << 20]


def one_gather(model: Path, *, num_bytes: int) -> None:
    """An IR whose weights are all read; the file has a hole instead of them."""
    (model / "openvino_model.xml").write_text(
        '<net><layers><layer id="0" type="Parameter"><output><port id="0" names="input_ids"/>'
        '</output></layer><layer id="1" type="Const"><data size="0"/></layer>'
        '<layer id="2" type="Gather"/></layers><edges>'
        '<edge from-layer="1" from-port="0" to-layer="2" to-port="0"/>'
        '<edge from-layer="0" from-port="0" to-layer="2" to-port="1"/></edges></net>'
    )
    os.truncate(model / "openvino_model.bin", num_bytes)
    fix_sizes(model)


class TestTime:
    def test_a_clock_before_the_model_is_wrong(self, n100: FakeBox, model: Path) -> None:
        change(model, created="2999-01-01T00:00:00+00:00")
        found = n100.examine()
        assert found.problems() == ["time.clock"]
        assert "2999-01-01" in found["time.clock"].text

    def test_a_clock_that_nobody_sets(self, n100: FakeBox) -> None:
        n100.tools.ntp = "no"
        assert "set-ntp" in n100.examine()["time.sync"].remedy
        write(n100.root, {"run/systemd/container": "docker"})
        found = n100.examine()
        assert "container's host" in found["time.sync"].text
        assert found["cpu.model"].text.endswith("in a container")


def test_a_file_that_may_not_be_read_is_told(n100: FakeBox) -> None:
    """A directory in its place cannot be read by root either."""
    (n100.root / "proc/uptime").unlink()
    (n100.root / "proc/uptime").mkdir()
    found = n100.examine()
    assert found.facts["files"]["unreadable"] == {"/proc/uptime": "Is a directory"}
    assert found.level("files.unreadable") == "note"


def test_measured_says_what_the_clock_did(n100: FakeBox) -> None:
    measured = measure(meter(1e9), n100.root, frozenset(range(4)))
    assert isinstance(measured, Measured)
    assert (measured.reading.bytes_per_s, measured.clock_khz) == (1e9, 2900000)
