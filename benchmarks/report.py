"""Markdown from the measurements: medians, ratios, and what was required."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Mapping, Sequence

import requirements as req
from measure import Cost
from requirements import SIZE, SPEED, at_most, verdict

PEERS = ("restic", "borg", "pipe")
STEPS = {"first": "first backup", "second": "second backup", "restore": "restore", "verify": "verify --read-data"}
Costs = Mapping[tuple[str, str, str], Sequence[Cost]]  # (source, step, tool) -> one for each round


def wall(costs: Sequence[Cost]) -> float:
    """The median of wall seconds."""
    return statistics.median(cost.wall for cost in costs)


def cpu(costs: Sequence[Cost]) -> float:
    """The median of user and system seconds."""
    return statistics.median(cost.cpu for cost in costs)


def peak(costs: Sequence[Cost]) -> float:
    """The highest peak memory of all rounds, in MB."""
    return max(cost.rss for cost in costs)


def table(titles: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [list(titles), ["---"] * len(titles), *map(list, rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines) + "\n"


def _works(costs: Costs) -> list[tuple[str, str]]:
    """(source, step) of what the comparison is about, in order."""
    return list(dict.fromkeys((source, step) for source, step, _ in costs if step in STEPS and source != "million"))


def speed(costs: Costs, titles: Mapping[str, str]) -> str:
    """Seconds, ratios of seconds with ratios of CPU seconds in brackets, the required figures and whether they are met."""
    rows = []
    for source, step in _works(costs):
        mine = costs.get((source, step, "keyark"))
        cells = [f"{STEPS[step]}, {titles[source]}"]
        for tool in ("keyark", *PEERS):
            found = costs.get((source, step, tool))
            cells.append("–" if not found else f"{wall(found):.2f} ({cpu(found):.2f})")
        bars = SPEED.get((source, step), ())
        ratios = {}
        for peer in PEERS:
            theirs = costs.get((source, step, peer))
            if not mine or not theirs:
                cells.append("–")
                continue
            top, bottom = (mine, theirs) if peer == "pipe" else (theirs, mine)
            ratios[peer] = wall(top) / wall(bottom)
            cells.append(f"{ratios[peer]:.2f}x ({cpu(top) / cpu(bottom):.2f}x)")
        rows.append([*cells, ", ".join(map(str, bars)) or "–", verdict(bars, ratios)])
    head = ["work", "Keyark, s", "restic, s", "borg, s", "pipe, s"]
    return table([*head, "restic / Keyark", "borg / Keyark", "Keyark / pipe", "required", "met"], rows)


def memory(costs: Costs, titles: Mapping[str, str]) -> str:
    """Peak memory of the largest process, the highest of all rounds."""
    rows = []
    for source, step in dict.fromkeys((source, step) for source, step, _ in costs if step in STEPS):
        mine = costs.get((source, step, "keyark"))
        cells = [f"{STEPS[step]}, {titles[source]}"]
        for tool in ("keyark", *PEERS):
            found = costs.get((source, step, tool))
            cells.append("–" if not found else f"{peak(found):.0f}")
        met = at_most(peak(mine), req.MEMORY_MB, req.MEMORY_AIM_MB) if mine else "–"
        rows.append([*cells, f"≤ {req.MEMORY_MB}", met])
    return table(["peak memory, MB", "Keyark", "restic", "borg", "pipe", "required", "met"], rows)


def sizes(found: Mapping[tuple[str, str], int], titles: Mapping[str, str]) -> str:
    """Bytes of the repositories after the first backup, in MB."""
    rows = []
    for source in dict.fromkeys(source for source, _ in found if source != "million"):
        size = {tool: found[source, tool] for tool in ("keyark", *PEERS) if (source, tool) in found}
        cells = [titles[source], *(f"{size[tool] / 1e6:.2f}" if tool in size else "–" for tool in ("keyark", *PEERS))]
        others = [size[tool] for tool in ("restic", "borg") if tool in size]
        ratio = size["keyark"] / min(others) if others and "keyark" in size else None
        cells.append("–" if ratio is None else f"{ratio:.3f}x")
        must = SIZE.get(source)
        cells.append("–" if must is None else f"≤ {must[0]:g}x")
        cells.append("–" if must is None or ratio is None else at_most(ratio, *must))
        rows.append(cells)
    head = ["repository, MB", "Keyark", "restic", "borg", "pipe"]
    return table([*head, "Keyark / smaller of restic, borg", "required", "met"], rows)


def flatness(costs: Costs, files: Mapping[str, int]) -> str:
    """Cost per file of many files against that of few."""
    rows = []
    for step, title in STEPS.items():
        few, many = costs.get(("secrets", step, "keyark")), costs.get(("million", step, "keyark"))
        if not few or not many:
            continue
        cells = [title]
        ratios = []
        for measure in (wall, cpu):
            each = [measure(found) / files[source] * 1e6 for source, found in (("secrets", few), ("million", many))]
            ratios.append(each[1] / each[0])
            cells += [f"{each[0]:.1f}", f"{each[1]:.1f}", f"{ratios[-1]:.2f}x"]
        rows.append([*cells, f"≤ {req.FLAT}x", at_most(ratios[0], req.FLAT)])
    some, all_of_them = (f"{files[source]:,} files" for source in ("secrets", "million"))
    head = ["cost per file, µs", f"wall, {some}", f"wall, {all_of_them}", "ratio"]
    return table([*head, f"CPU, {some}", f"CPU, {all_of_them}", "ratio", "required", "met"], rows)


def startup(costs: Costs) -> str:
    """The verbs' help pages as one line, of the slowest; listing snapshots of each tool."""
    help_pages = {
        step: found for source, step, tool in costs if source == "startup" for found in [costs[source, step, tool]]
    }
    rows = []
    verbs = {step: found for step, found in help_pages.items() if step.endswith(" --help")}
    if verbs:
        slowest = max(verbs, key=lambda step: wall(verbs[step]))
        for step in ("--help", slowest):
            found = help_pages[step]
            met = at_most(wall(found), req.HELP_SECONDS, req.STARTUP_AIM_SECONDS)
            title = f"`keyark {step}`" + ("" if step == "--help" else f" (slowest of {len(verbs)} verbs)")
            rows.append([title, f"{wall(found):.3f} ({cpu(found):.3f})", f"≤ {req.HELP_SECONDS}", met])
    for tool in ("keyark", "restic", "borg"):
        listed = costs.get(("startup", "list", tool))
        if listed:
            must = tool == "keyark"
            rows.append(
                [
                    "`keyark snapshots`, key file" if must else f"{tool} {'list' if tool == 'borg' else 'snapshots'}",
                    f"{wall(listed):.3f} ({cpu(listed):.3f})",
                    f"≤ {req.SNAPSHOTS_SECONDS}" if must else "–",
                    at_most(wall(listed), req.SNAPSHOTS_SECONDS, req.STARTUP_AIM_SECONDS) if must else "–",
                ]
            )
    return table(["start-up", "s", "required", "met"], rows)


def index(costs: Costs, chunks: int, cache_bytes: int) -> str:
    """What an index of many chunks adds to the memory of a small backup, and what a cold build of its cache costs."""
    found = {step: costs["index", step, "keyark"] for step in ("without", "cold", "warm")}
    added = max(peak(found["cold"]), peak(found["warm"])) - peak(found["without"])
    titles = {
        "without": "small backup, empty index",
        "cold": f"the same, {chunks:,} chunks in the index, no local cache yet (cold build)",
        "warm": f"the same, {chunks:,} chunks in the index, cache there",
    }
    rows = [
        [titles[step], f"{wall(costs):.2f} ({cpu(costs):.2f})", f"{peak(costs):.0f}", "–", "–"]
        for step, costs in found.items()
    ]
    met = at_most(added, req.INDEX_ADDS_MB)
    rows.append(["the index adds", "–", f"{added:.0f}", f"≤ {req.INDEX_ADDS_MB}", met])
    return (
        table(["index", "s", "MB", "required", "met"], rows) + f"\nThe local cache takes {cache_bytes / 1e6:,.0f} MB.\n"
    )


def quiet(costs: Costs) -> str:
    """How many measurements other processes disturbed."""
    told = [cost.others for found in costs.values() for cost in found if cost.others is not None]
    disturbed = sum(others > 0.1 for others in told)
    if not told or not disturbed:
        return "No measurement was disturbed by other processes.\n"
    return (
        f"**{disturbed} of {len(told)} measurements were disturbed: other processes used more than a tenth of a core "
        f"(at most {max(told):.1f} cores). Do not publish these figures.**\n"
    )
