"""What the control groups of this process allow it: time on processors and memory.

A limit holds for all groups below it, so the lowest limit from the process's group upwards counts.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

from edge.system_files import read_text


def read_cpu_quota(root: Path = Path("/")) -> float | None:
    quotas = [parse_cpu_max(text) for folder in group_folders(root, "") if (text := read_text(folder / "cpu.max"))]
    for folder in group_folders(root, "cpu"):
        quota, period = read_text(folder / "cpu.cfs_quota_us"), read_text(folder / "cpu.cfs_period_us")
        if quota and period:
            quotas.append(parse_cpu_max(f"{quota.strip()} {period.strip()}"))
    return min((quota for quota in quotas if quota is not None), default=None)


def parse_cpu_max(text: str) -> float | None:
    """Cores' worth of time in "<microseconds> <period>"; "max" or -1 microseconds are no limit."""
    quota, _, period = text.strip().partition(" ")
    if not quota.isdigit() or not period.isdigit() or period == "0":
        return None
    return int(quota) / int(period)


def read_memory_limit(root: Path = Path("/")) -> tuple[int | None, int]:
    """The lowest limit in bytes (None: no limit) and what is left in the group that has the least left.

    `memory.high` (systemd's MemoryHigh) is one as well: above it, processes are slowed down until memory is reclaimed.
    """
    limits = []
    for controller, limit_file, usage_file, cache_name in (
        ("", "memory.max", "memory.current", "inactive_file"),
        ("", "memory.high", "memory.current", "inactive_file"),
        ("memory", "memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"),
    ):
        for folder in group_folders(root, controller):
            limit = (read_text(folder / limit_file) or "").strip()
            if limit.isdigit():
                used = int((read_text(folder / usage_file) or "0").strip())
                reclaimable = parse_counts(read_text(folder / "memory.stat") or "").get(cache_name, 0)
                limits.append((int(limit), int(limit) - used + reclaimable))
    if not limits:
        return None, 0
    return min(limit for limit, _ in limits), min(left for _, left in limits)


def parse_counts(text: str) -> dict[str, int]:
    """The `name value` lines of files such as memory.stat and cpu.stat."""
    return {name: int(value) for name, value in re.findall(r"^(\w+) (\d+)$", text, re.MULTILINE)}


def parse_cgroup(text: str) -> dict[str, PurePosixPath]:
    """The process's group for each controller of /proc/self/cgroup; the controller of version 2 is ""."""
    groups = {}
    for line in text.splitlines():
        _, _, rest = line.partition(":")
        controllers, colon, path = rest.partition(":")
        if colon and path.startswith("/"):
            groups.update({controller: PurePosixPath(path) for controller in controllers.split(",")})
    return groups


def group_folders(root: Path, controller: str) -> Iterator[Path]:
    """The folders of the process's group and of the groups above it; a container often shows only the topmost."""
    group = parse_cgroup(read_text(root / "proc/self/cgroup") or "").get(controller, PurePosixPath("/"))
    mount = root / "sys/fs/cgroup" / controller
    for path in (group, *group.parents):
        if ".." not in path.parts:
            yield mount / str(path).lstrip("/")
