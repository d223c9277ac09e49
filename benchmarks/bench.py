"""One run: data is made, tools take turns, costs are kept."""

from __future__ import annotations

import argparse
import shutil
import subprocess
import sys
import time
from pathlib import Path

import report
import sources
from measure import BenchError, Cost
from sources import Source
from tools import Keyark, Tool

ROWS = ("secrets", "tree", "random", "startup", "million", "index")
_PLANT = Path(__file__).resolve().with_name("bigindex.py")
_SETTLE_SECONDS = 3  # so that no tool distrusts the times of files that have just been made
_INODE = 1_000  # bytes of memory that a file takes on a tmpfs besides its pages


class Bench:
    """One run: its folder, its tools, and what was measured."""

    def __init__(self, options: argparse.Namespace, tools: list[Tool]) -> None:
        self.options = options
        self.folder: Path = options.folder
        self.tools = tools
        self.costs: dict[tuple[str, str, str], list[Cost]] = {}
        self.sizes: dict[tuple[str, str], int] = {}
        self.sources: dict[str, Source] = {}
        self.cache_bytes = 0

    def source(self, name: str) -> Source:
        """Make a row's data."""
        options = self.options
        origin, size = Path(options.tree_from), options.tree_mb * 1_000_000
        many = {"secrets": options.files, "million": options.many_files, "startup": 100, "index": 2_000}
        say(f"data for {name}")
        if name == "tree":
            facts: dict[str, object] = {"from": str(origin), "size": size}
            made = sources.prepare(self.folder, name, facts, lambda path: sources.real_tree(path, origin, size))
        elif name == "random":
            length = options.random_mb * 1_000_000
            made = sources.prepare(self.folder, name, {"size": length}, lambda path: sources.random_bytes(path, length))
        else:
            made = sources.prepare(
                self.folder, name, {"files": many[name]}, lambda path: sources.secrets(path, many[name])
            )
        self.sources[name] = made
        _check_room(made, len(self.tools) if name != "million" else 1)
        time.sleep(_SETTLE_SECONDS)
        return made

    def compare(self, name: str) -> None:
        """The steps of one source, all tools in turn, after a round that does not count."""
        source = self.source(name)
        steps = [step for step in report.STEPS if step == "first" or step in self.options.steps]
        tools = [tool for tool in self.tools if name != "million" or tool.name == "keyark"]
        for number in range(-self.options.warm_up, self.options.rounds):
            for tool in tools:
                tool.fresh()
            for step in steps:
                for tool in tools:
                    cost = tool.step(step, source)
                    if cost is not None and number >= 0:
                        self._record(name, step, tool, cost)
                    if step == "first":
                        self.sizes[name, tool.name] = tool.repository_size()
            for tool in tools:
                tool.wipe()
        self._drop(name)

    def startup(self) -> None:
        """Help pages, and the list of snapshots of a repository with three."""
        source = self.source("startup")
        keyark = next((tool for tool in self.tools if isinstance(tool, Keyark)), None)
        for tool in self.tools:
            tool.fresh()
            if tool.command("list", source):
                for _ in range(3):
                    tool.step("second", source)
        for number in range(-1, self.options.startup_rounds):
            if keyark is not None:
                for arguments in (["--help"], *([verb, "--help"] for verb in keyark.verbs())):
                    cost = keyark.run(keyark.program, *arguments)
                    if number >= 0:
                        self._record("startup", " ".join(arguments), keyark, cost)
            for tool in self.tools:
                found = tool.step("list", source)
                if found is not None and number >= 0:
                    self._record("startup", "list", tool, found)
        for tool in self.tools:
            tool.wipe()
        self._drop("startup")

    def index(self) -> None:
        """A small backup without and with an index of many chunks, whose local cache is first built, then used."""
        keyark = next((tool for tool in self.tools if isinstance(tool, Keyark)), None)
        if keyark is None:
            raise SystemExit("the row index needs keyark")
        source = self.source("index")
        keyark.fresh()
        for step in ("without", "cold", "warm"):
            if step == "cold":
                say(f"an index of {self.options.chunks:,} chunks")
                command = [sys.executable, str(_PLANT), str(keyark.repository), str(self.options.chunks)]
                subprocess.run(command, check=True, env=keyark.environment)
                shutil.rmtree(keyark.base / "cache")
            # New files each time, so that there is something to look up.
            shutil.rmtree(source.path)
            source.path.mkdir()
            sources.secrets(source.path, 2_000, seed=10 + len(self.costs))
            cost = keyark.step("first", source)
            if cost is not None:
                self._record("index", step, keyark, cost)
        self.cache_bytes = sources.count(keyark.base / "cache")[1]
        keyark.wipe()
        (self.folder / "index.json").unlink()  # it is no longer what it was made as
        self._drop("index")

    def _record(self, source: str, step: str, tool: Tool, cost: Cost) -> None:
        self.costs.setdefault((source, step, tool.name), []).append(cost)
        if source != "startup":
            say(f"{source} {step} {tool.name}: {cost.wall:.2f} s, CPU {cost.cpu:.2f} s, {cost.rss:.0f} MB")

    def _drop(self, name: str) -> None:
        if not self.options.keep:
            (self.folder / f"{name}.json").unlink(missing_ok=True)
            shutil.rmtree(self.folder / name)

    def run(self) -> None:
        rows = self.options.rows
        if "million" in rows and "secrets" not in rows:
            rows = ["secrets", *rows]  # what it is compared with
        for row in ROWS:
            if row in rows:
                {"startup": self.startup, "index": self.index}.get(row, lambda row=row: self.compare(row))()


def title(name: str, source: Source) -> str:
    """What a row of the tables calls its source."""
    if name in ("secrets", "million", "startup", "index"):
        return f"{source.files:,} secrets"
    return f"{source.size / 1e9:.2f} GB {'real tree' if name == 'tree' else 'random'}"


def say(text: str) -> None:
    """Tell how far the run is, apart from the tables."""
    print(text, file=sys.stderr, flush=True)


def _check_room(source: Source, tools: int) -> None:
    """A tmpfs that fills the memory takes the machine down with it."""
    needed = (source.files * (4096 + _INODE) + source.size) + source.size * tools
    with open("/proc/meminfo", encoding="ascii") as file:
        available = next(int(line.split()[1]) * 1024 for line in file if line.startswith("MemAvailable"))
    if needed > available:
        raise BenchError(f"{source.path.name} needs {needed / 1e9:.0f} GB more memory, {available / 1e9:.0f} are there")
