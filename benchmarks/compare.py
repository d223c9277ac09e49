"""Keyark, restic, borg and `tar | zstd | age`: whole processes taking turns on a tmpfs; prints Markdown.

    python benchmarks/compare.py --build-borg                          # once
    python benchmarks/compare.py                                       # everything but `million` and `index`
    python benchmarks/compare.py --rows secrets --steps first,second --rounds 9 --tools keyark,restic
    python benchmarks/compare.py --rows secrets,million,index --tools keyark --rounds 1

Every round starts with empty repositories, and each step is run by all tools in turn before the next one. Wall seconds are
medians; CPU seconds (user and system, of all processes of a pipe) stand in brackets; memory is the highest peak of the largest
process. All compress with zstd at level 3 (restic: `auto`, its zstd default), and all keep repository, caches and temporary
files on the same tmpfs, where syncing costs nothing. Every start of restic and borg includes the derivation
of a key from a passphrase, their only way in; Keyark writes with a credential and reads with a key file.
"""

from __future__ import annotations

import argparse
import compileall
import dataclasses
import json
import os
import platform
import shutil
import signal
import sys
from collections.abc import Sequence
from pathlib import Path

import report
from bench import Bench, say, title
from measure import BenchError, output_of
from options import build_borg, options
from sources import Source
from tools import Borg, Keyark, Pipe, Restic, Tool

_MARKER = ".keyark-bench"
_QUIET_LOAD = 0.5


def _circumstances(tools: Sequence[Tool], options: argparse.Namespace, made: dict[str, Source]) -> str:
    versions = "; ".join(tool.versions() for tool in tools)
    data = "; ".join(
        f"{name}: {source.files:,} {'file' if source.files == 1 else 'files'}, {source.size / 1e6:,.1f} MB"
        for name, source in made.items()
    )
    with open("/proc/cpuinfo", encoding="utf-8") as file:
        model = next((line.split(": ")[1].strip() for line in file if line.startswith("model name")), "unknown")
    return (
        f"{versions}. {os.cpu_count()} cores of {model}, Linux {platform.release()}; {options.folder}; "
        f"medians, rounds: {options.rounds} after {options.warm_up} uncounted (start-up: {options.startup_rounds} after 1; "
        f"index: a single run). Data: {data}.\n"
    )


def _tools(options: argparse.Namespace) -> list[Tool]:
    programs: dict[type[Tool], str] = {Keyark: options.keyark, Restic: "restic", Borg: options.borg, Pipe: "age"}
    chosen: list[Tool] = []
    for kind, program in programs.items():
        if kind.name not in options.tools:
            continue
        found = shutil.which(program)
        if found is None:
            say(f"warning: no {program}: {kind.name} is left out" + (", see --build-borg" if kind is Borg else ""))
            continue
        chosen.append(kind(options.folder, found))
    return chosen


def _warn_of_noise(folder: Path) -> None:
    load = os.getloadavg()[0]
    if load > _QUIET_LOAD:
        say(f"warning: the load average is {load:.2f}: others are at work, and the figures will not be worth much")
    kind = output_of(["stat", "-f", "-c", "%T", str(folder)])
    if kind != "tmpfs":
        say(f"warning: {folder} is on {kind}, not on a tmpfs: the figures will be those of the disk")


def _claim(folder: Path) -> None:
    """The folder is emptied in the end, so it must be ours."""
    if folder.exists() and not (folder / _MARKER).exists() and any(folder.iterdir()):
        raise SystemExit(f"{folder} is not empty and no earlier run made it; name another with --folder")
    folder.mkdir(parents=True, exist_ok=True)
    (folder / _MARKER).touch()


def print_tables(bench: Bench) -> None:
    """The tables of what was measured."""
    options = bench.options
    titles = {name: title(name, source) for name, source in bench.sources.items()}
    measured = {source for source, _, _ in bench.costs}
    print(_circumstances(bench.tools, options, bench.sources))
    if measured & {"secrets", "tree", "random"}:
        print(report.speed(bench.costs, titles))
        print(report.sizes(bench.sizes, titles))
        print(report.memory(bench.costs, titles))
    if "million" in measured:
        print(report.flatness(bench.costs, {name: source.files for name, source in bench.sources.items()}))
    if "startup" in measured:
        print(report.startup(bench.costs))
    if "index" in measured:
        print(report.index(bench.costs, options.chunks, bench.cache_bytes))
    print(report.quiet(bench.costs))


def dump(bench: Bench, path: Path) -> None:
    """Every measurement, for other programs."""
    rows = [
        {"source": source, "step": step, "tool": tool, **dataclasses.asdict(cost)}
        for (source, step, tool), found in bench.costs.items()
        for cost in found
    ]
    sizes = [{"source": source, "tool": tool, "bytes": size} for (source, tool), size in bench.sizes.items()]
    path.write_text(json.dumps({"measurements": rows, "repositories": sizes}, indent=1) + "\n")


def main() -> None:
    wanted = options(__doc__)
    if wanted.build_borg:
        build_borg()
        return
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # clean up then, too
    Borg.encryption = wanted.borg_encryption
    compileall.compile_dir(Path(__file__).resolve().parent.parent / "src", quiet=2)
    _claim(wanted.folder)
    _warn_of_noise(wanted.folder)
    bench = Bench(wanted, _tools(wanted))
    failure: str | None = None
    try:
        bench.run()
    except BenchError as e:
        failure = str(e)  # what was measured before it is told all the same
    finally:
        for tool in bench.tools:
            tool.wipe()
        if not wanted.keep:
            shutil.rmtree(wanted.folder, ignore_errors=True)
    if bench.costs:
        print_tables(bench)
    if wanted.json is not None:
        dump(bench, wanted.json)
    if failure is not None:
        raise SystemExit(failure)


if __name__ == "__main__":
    main()
