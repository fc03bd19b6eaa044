"""The machine of a record, as another run has to find it again."""

from __future__ import annotations

import json

from bench.machine import is_same_machine, machine_record


def test_a_machine_read_back_from_a_record_is_the_same_one() -> None:
    machine = machine_record()
    assert is_same_machine(machine, json.loads(json.dumps(machine)))
    assert not is_same_machine(machine, {**machine, "cpu": {**machine["cpu"], "name": "Other CPU"}})


def test_the_record_has_the_versions_that_decide_about_speed() -> None:
    assert {"python", "edge-llm", "llama-cpp-python", "llama.cpp"} <= set(machine_record()["versions"])
