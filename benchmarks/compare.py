"""Whole processes, pairwise, medians: keyark, restic, and `tar | zstd | age`, on a tmpfs.

    python benchmarks/compare.py [--rounds 5] [--folder /dev/shm/keyark-bench]

Prints a table in Markdown. Tools that are not installed are left out.
"""

from __future__ import annotations

import argparse
import os
import random
import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

Step = Callable[[], None]


def secrets_tree(folder: Path) -> Path:
    """50,000 small secrets in 100 folders, about 100 MB."""
    rng = random.Random(1)
    for number in range(50_000):
        path = folder / f"{number // 500:03d}"
        path.mkdir(parents=True, exist_ok=True)
        body = rng.randbytes(rng.randint(150, 1700)).hex().encode()
        (path / f"{number:05d}.key").write_bytes(
            b"-----BEGIN PRIVATE KEY-----\n" + body + b"\n-----END PRIVATE KEY-----\n"
        )
    return folder


def random_file(folder: Path) -> Path:
    """1 GB of random bytes in one file."""
    folder.mkdir(parents=True)
    with (folder / "random").open("wb") as file:
        for _ in range(256):
            file.write(os.urandom(4_000_000))
    return folder


def environment_tree(folder: Path) -> Path:
    """A Python environment, twice: code, text and binaries."""
    for copy in ("a", "b"):
        shutil.copytree(Path(sys.prefix) / "lib", folder / copy, symlinks=True)
    return folder


class Tool:
    """One tool with its own place on the tmpfs."""

    def __init__(self, base: Path, source: Path) -> None:
        self.base = base
        self.source = source

    def run(self, *command: str, **environment: str) -> None:
        env = {**os.environ, **environment}
        subprocess.run(command, check=True, env=env, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)

    def fresh(self) -> None:
        shutil.rmtree(self.base, ignore_errors=True)
        self.base.mkdir(parents=True)


class Keyark(Tool):
    name = "keyark"

    def command(self, *arguments: str) -> None:
        self.run(
            sys.executable,
            "-m",
            "keyark.cli.main",
            "-r",
            str(self.base / "r"),
            *arguments,
            HOME=str(self.base / "home"),
        )

    def fresh(self) -> None:
        super().fresh()
        (self.base / "home").mkdir()
        self.command("init", "--new-key-file", str(self.base / "key"), "--i-accept-a-single-key")

    def backup(self) -> None:
        self.command("backup", "-q", str(self.source))

    def restore(self) -> None:
        shutil.rmtree(self.base / "out", ignore_errors=True)
        self.command(
            "--key-file", str(self.base / "key"), "restore", "-q", "latest", "--target", str(self.base / "out")
        )


class Restic(Tool):
    name = "restic"

    def command(self, *arguments: str) -> None:
        options = ("-r", str(self.base / "r"), "--cache-dir", str(self.base / "cache"), "-q")
        self.run("restic", *options, *arguments, RESTIC_PASSWORD="benchmark")

    def fresh(self) -> None:
        super().fresh()
        self.command("init")

    def backup(self) -> None:
        self.command("backup", str(self.source))

    def restore(self) -> None:
        shutil.rmtree(self.base / "out", ignore_errors=True)
        self.command("restore", "latest", "--target", str(self.base / "out"))


class Pipe(Tool):
    name = "tar, zstd, age"

    def fresh(self) -> None:
        super().fresh()
        self.run("age-keygen", "-o", str(self.base / "id"))

    def backup(self) -> None:
        recipient = subprocess.run(
            ["age-keygen", "-y", str(self.base / "id")], check=True, capture_output=True, text=True
        ).stdout.strip()
        self.run(
            "bash", "-c", f"tar -C / -c {str(self.source)[1:]} | zstd -3 -T0 | age -r {recipient} -o {self.base}/x"
        )

    def restore(self) -> None:
        shutil.rmtree(self.base / "out", ignore_errors=True)
        (self.base / "out").mkdir()
        self.run("bash", "-c", f"age -d -i {self.base}/id {self.base}/x | zstd -d | tar -C {self.base}/out -x")


def seconds(step: Step) -> float:
    started = time.perf_counter()
    step()
    return time.perf_counter() - started


def measure(tools: list[Tool], rounds: int) -> dict[str, list[str]]:
    """Median seconds of first backup, unchanged backup and restore, the tools taking turns."""
    times: dict[str, list[list[float]]] = {tool.name: [[], [], []] for tool in tools}  # type: ignore[attr-defined]
    for _ in range(rounds):
        for tool in tools:
            tool.fresh()
            row = times[tool.name]  # type: ignore[attr-defined]
            row[0].append(seconds(tool.backup))  # type: ignore[attr-defined]
            tool.backup()  # type: ignore[attr-defined]
            row[1].append(seconds(tool.backup))  # type: ignore[attr-defined]
            row[2].append(seconds(tool.restore))  # type: ignore[attr-defined]
            shutil.rmtree(tool.base)
    return {name: [f"{statistics.median(values):.2f}" for values in row] for name, row in times.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--folder", type=Path, default=Path("/dev/shm/keyark-bench"))
    options = parser.parse_args()
    needed = {Keyark: "true", Restic: "restic", Pipe: "age"}
    kinds = [kind for kind, program in needed.items() if shutil.which(program)]
    print("| source | tool | first backup, s | unchanged, s | restore, s |\n|---|---|---|---|---|")
    try:
        for title, make in (
            ("50,000 secrets", secrets_tree),
            ("Python environment, twice", environment_tree),
            ("1 GB random", random_file),
        ):
            source = make(options.folder / "source")
            time.sleep(0.1)
            for name, row in measure(
                [kind(options.folder / kind.__name__, source) for kind in kinds], options.rounds
            ).items():
                print(f"| {title} | {name} | {' | '.join(row)} |", flush=True)
            shutil.rmtree(source)
    finally:
        shutil.rmtree(options.folder, ignore_errors=True)


if __name__ == "__main__":
    main()
