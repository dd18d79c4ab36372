"""Tests of migrate/report.py: the keys of the report are frozen, and its summary is for people."""

from __future__ import annotations

import json
import re

from migrate.report import Instant, Interval, Report, summary
from tests.unit.helpers.checkout import ROOT

DOCS = ROOT / "docs"


#: The keys of the report, which are frozen: other keys are another schema.
KEYS_1 = {
    "fill",
    "proof",
    "schema",
    "migration_id",
    "container",
    "source",
    "target",
    "mode",
    "outcome",
    "error_kind",
    "cause_kind",
    "log_directory",
    "error",
    "started_unix_ns",
    "total_us",
    "downtime_us",
    "clock_error_us",
    "predicted_downtime_us",
    "predicted_parts_us",
    "memory_bytes",
    "rounds",
    "round_bytes",
    "pages",
    "pages_zero",
    "page_bytes",
    "pages_skipped_parent",
    "bytes_sent",
    "frozen_bytes_sent",
    "versions",
    "phases",
    "freeze",
    "notes",
}


def full_report() -> Report:
    report = Report.begin("web", "beta")
    report.add_bytes("pages", 1 << 20)
    report.add_bytes("pages", 1 << 20)
    report.add_bytes("images", 7)
    report.times.phases.append(Interval(name="dump", start_us=1, length_us=2500))
    report.times.freeze.append(Instant(name="held", host="target", at_us=3))
    report.times.downtime_us, report.times.clock_error_us, report.outcome = 129_000, 150, "done"
    report.sent.memory_bytes, report.sent.frozen_bytes_sent = 128 << 20, 1 << 20
    return report


def test_the_keys_of_the_report_are_frozen() -> None:
    printed = json.loads(json.dumps(full_report().to_json()))
    assert printed["schema"] == 2
    assert set(printed) == KEYS_1
    assert printed["bytes_sent"] == {"pages": 2 << 20, "images": 7}
    assert printed["phases"] == [{"name": "dump", "start_us": 1, "length_us": 2500}]
    assert printed["freeze"] == [{"name": "held", "host": "target", "at_us": 3}]


def test_the_keys_of_the_report_are_documented() -> None:
    table = re.findall(r"^\| (.+?) \|", (DOCS / "report.md").read_text(), re.MULTILINE)
    assert {name for row in table for name in re.findall(r"`(\w+)`", row)} == KEYS_1


def test_a_report_of_a_migration_that_never_began_says_so() -> None:
    printed = Report.begin("web", "beta").to_json()
    assert (printed["outcome"], printed["downtime_us"], printed["error"]) == ("refused", None, None)
    assert re.fullmatch(r"[0-9a-f]{12}", printed["migration_id"])
    assert Report.begin("web", "beta").migration_id != printed["migration_id"]


def test_the_summary_says_what_people_want_to_know() -> None:
    text = "\n".join(summary(full_report()))
    for words in (
        "web",
        "beta",
        "done",
        "129 ms",
        "0.1 ms",
        "128 MiB",
        "2.0 MiB sent",
        "1.0 MiB of it",
        "dump",
    ):
        assert words in text
    assert "downtime" not in "\n".join(summary(Report.begin("web", "beta")))
