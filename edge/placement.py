"""Which hardware threads this process may run on, and what they are: siblings of a core, fast or slow, on which node.

Reads what Linux tells below /sys and /proc; elsewhere nothing is known.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from edge.control_groups import group_folders
from edge.system_files import parse_fields, parse_number_list, read_number, read_text

_FULL_CAPACITY = 1024  # of the fastest core, by which Linux measures the others


@dataclass(frozen=True)
class Placement:
    """Hardware threads by their numbers. Empty where the system tells nothing."""

    online: tuple[int, ...] = ()
    allowed: tuple[int, ...] = ()
    """That the affinity mask lets this process run on."""
    slow: tuple[int, ...] = ()
    """Of `online`: efficiency cores, beside which there are faster ones."""
    nodes: tuple[tuple[int, ...], ...] = ()
    """The threads of each NUMA node that has any."""
    is_cpuset: bool = False
    """Whether it is the control group that forbids the others."""
    is_interleaved: bool = False
    """Whether memory is spread over the nodes for this process."""
    moves_pages: bool = False
    """Whether the system moves pages between nodes by itself (NUMA balancing)."""

    @property
    def fast(self) -> tuple[int, ...]:
        return tuple(sorted(set(self.online) - set(self.slow)))

    @property
    def used_nodes(self) -> int:
        """Nodes with a thread that this process may run on."""
        return sum(1 for node in self.nodes if set(node) & set(self.allowed))


def read_placement(root: Path = Path("/")) -> Placement:
    cpus = root / "sys/devices/system/cpu"
    online = parse_number_list(read_text(cpus / "online") or "")
    nodes = sorted((root / "sys/devices/system/node").glob("node[0-9]*/cpulist"))
    policies = read_text(root / "proc/self/numa_maps") or ""
    allowed = _allowed(root) or online
    sets = [read_text(folder / "cpuset.cpus.effective") for folder in group_folders(root, "")]
    in_group = parse_number_list(next(filter(None, sets), ""))
    return Placement(
        online=online,
        allowed=allowed,
        slow=_slow(root, online),
        nodes=tuple(filter(None, (parse_number_list(read_text(node) or "") for node in nodes))),
        is_cpuset=bool(in_group) and set(in_group) < set(online) and set(in_group) <= set(allowed),
        is_interleaved=" interleave:" in policies,
        moves_pages=(read_number(root / "proc/sys/kernel/numa_balancing") or 0) > 0,
    )


def _allowed(root: Path) -> tuple[int, ...]:
    listed = parse_fields(read_text(root / "proc/self/status") or "").get("Cpus_allowed_list", "")
    if listed or not hasattr(os, "sched_getaffinity"):
        return parse_number_list(listed)
    return tuple(sorted(os.sched_getaffinity(0))) if root == Path("/") else ()


def _slow(root: Path, online: Sequence[int]) -> tuple[int, ...]:
    """Intel's hybrid processors list both kinds of cores; on Arm, capacities tell them apart."""
    of_intel = parse_number_list(read_text(root / "sys/devices/cpu_atom/cpus") or "")
    if of_intel:
        return tuple(cpu for cpu in of_intel if cpu in online) if set(online) - set(of_intel) else ()
    folder = root / "sys/devices/system/cpu"
    capacities = {cpu: read_number(folder / f"cpu{cpu}/cpu_capacity") or _FULL_CAPACITY for cpu in online}
    highest = max(capacities.values(), default=0)
    return tuple(cpu for cpu, capacity in capacities.items() if 2 * capacity < highest * 1.5)
