"""Measure what each test costs in CPU seconds, its processes' included: `pytest --cpu-times`.

Wall time says little on a machine that does other work as well; CPU seconds are nearly the same then. A process counts
for the test that waited for it. Seconds that a test asks `time.sleep` for, in any thread, are in a column of their own.
"""

from __future__ import annotations

import resource
import time
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

PROPERTY = "cpu seconds"
LISTED = 60


class Cost(NamedTuple):
    """CPU seconds of this process and of its children, seconds slept in its main thread, wall seconds."""

    process: float = 0.0
    children: float = 0.0
    slept: float = 0.0
    wall: float = 0.0

    @property
    def cpu(self) -> float:
        return self.process + self.children

    def plus(self, other: Cost) -> Cost:
        return Cost(*(a + b for a, b in zip(self, other, strict=True)))

    def minus(self, other: Cost) -> Cost:
        return Cost(*(a - b for a, b in zip(self, other, strict=True)))


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--cpu-times", action="store_true", help="a table of the CPU seconds of tests and of their files")
    parser.addoption("--cpu-times-file", type=Path, help="write that table's rows here as well, one test a line")


def pytest_configure(config: pytest.Config) -> None:
    if config.getoption("--cpu-times") or config.getoption("--cpu-times-file"):
        xdist_worker = hasattr(config, "workerinput")  # its reports reach the process that writes
        file = None if xdist_worker else config.getoption("--cpu-times-file")
        config.pluginmanager.register(CpuTimes(file), "cpu-times")


class CpuTimes:
    """A plugin that notes the costs of each phase of a test in its report, and sums the reports in the end."""

    def __init__(self, file: Path | None) -> None:
        self.file = file
        self.slept = 0.0
        self.costs: defaultdict[str, Cost] = defaultdict(Cost)
        self.collected: defaultdict[str, Cost] = defaultdict(Cost)
        self.before = Cost()
        sleep = time.sleep

        def counted(seconds: float) -> None:
            self.slept += seconds
            sleep(seconds)

        time.sleep = counted  # type: ignore[assignment]

    def now(self) -> Cost:
        own, waited = resource.getrusage(resource.RUSAGE_SELF), resource.getrusage(resource.RUSAGE_CHILDREN)
        return Cost(own.ru_utime + own.ru_stime, waited.ru_utime + waited.ru_stime, self.slept, time.monotonic())

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_protocol(self, item: pytest.Item) -> Iterator[None]:
        self.before = self.now()
        return (yield)

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_makereport(self, item: pytest.Item) -> Iterator[None]:
        report = yield
        after = self.now()
        report.user_properties = [(PROPERTY, list(after.minus(self.before)))]  # travels from xdist's processes
        self.before = after
        return report

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        for name, values in report.user_properties:
            if name == PROPERTY:
                self.costs[report.nodeid] = self.costs[report.nodeid].plus(Cost(*values))

    @pytest.hookimpl(wrapper=True)
    def pytest_make_collect_report(self, collector: pytest.Collector) -> Iterator[None]:
        before = self.now()
        report = yield
        if isinstance(collector, pytest.Module):
            self.collected[collector.nodeid] = self.now().minus(before)
        return report

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        files: defaultdict[str, Cost] = defaultdict(Cost)
        for node, cost in self.costs.items():
            file = node.partition("::")[0]
            files[file] = files[file].plus(cost)
        total = Cost()
        for cost in self.costs.values():
            total = total.plus(cost)
        terminalreporter.section("CPU seconds")
        terminalreporter.write_line("    cpu  children   slept    wall")
        for title, rows in (("tests", self.costs), ("files", files), ("imports", self.collected), ("all", {"": total})):
            terminalreporter.write_line(title)
            for name, cost in sorted(rows.items(), key=lambda row: -row[1].cpu)[:LISTED]:
                terminalreporter.write_line(
                    f"{cost.cpu:7.2f} {cost.children:9.2f} {cost.slept:7.2f} {cost.wall:7.2f}  {name}"
                )
        if self.file is not None:
            with self.file.open("a", encoding="utf-8") as out:
                for name, cost in (self.costs | self.collected).items():
                    out.write("\t".join([*(f"{value:.3f}" for value in cost), name]) + "\n")
