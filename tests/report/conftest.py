"""The studies that the report is tested on, made once."""

from __future__ import annotations

import pytest

from partune.record.record import Record
from partune.report.facts import Facts
from tests.support import studies


@pytest.fixture(scope="package")
def recorded(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Record]:
    return studies.records(tmp_path_factory.mktemp("studies"))


@pytest.fixture(scope="package")
def facts(recorded: dict[str, Record]) -> dict[str, Facts]:
    return {name: Facts(record) for name, record in recorded.items()}
