"""The command line, and building borg."""

from __future__ import annotations

import argparse
import compileall
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import report
from bench import ROWS, say
from measure import output_of
from tools import Borg

BORG_ENVIRONMENT = Path(__file__).resolve().parent.parent / ".keyark" / "borg"
BORG_REQUIREMENT = "borgbackup==1.4.5"
BORG_NEEDS = "libacl1-dev libssl-dev liblz4-dev libzstd-dev libxxhash-dev pkg-config python3-dev gcc"


def build_borg() -> None:
    """borg from PyPI has no wheels for Linux: it is compiled."""
    subprocess.run([sys.executable, "-m", "venv", str(BORG_ENVIRONMENT)], check=True)
    pip = [str(BORG_ENVIRONMENT / "bin" / "pip"), "install", "--quiet", BORG_REQUIREMENT]
    if subprocess.run(pip, check=False).returncode != 0:
        raise SystemExit(f"borg could not be built; it needs: apt install {BORG_NEEDS}")
    compileall.compile_dir(BORG_ENVIRONMENT / "lib", quiet=2)
    say(f"built {output_of([str(BORG_ENVIRONMENT / 'bin' / 'borg'), '--version'])} in {BORG_ENVIRONMENT}")


def _some_of(known: Sequence[str]) -> Callable[[str], list[str]]:
    def parse(text: str) -> list[str]:
        names = list(known) if text == "all" else text.split(",")
        unknown = [name for name in names if name not in known]
        if unknown:
            raise argparse.ArgumentTypeError(f"unknown: {', '.join(unknown)}; there are {', '.join(known)}")
        return names

    return parse


def options(description: str | None) -> argparse.Namespace:
    """What the user asks for."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    own_borg = BORG_ENVIRONMENT / "bin" / "borg"
    own_keyark = Path(sys.executable).with_name("keyark")
    some, steps, tools = _some_of(ROWS), tuple(report.STEPS), ("keyark", "restic", "borg", "pipe")
    add = parser.add_argument
    add("--rows", type=some, default=list(ROWS[:4]), help=f"all, or some of {','.join(ROWS)}; not the last two")
    add("--steps", type=_some_of(steps), default=list(steps), help=f"all, or some of {','.join(steps)}")
    add("--tools", type=_some_of(tools), default=list(tools), help=f"all, or some of {','.join(tools)}")
    add("--rounds", type=int, default=5, help="rounds that count (5)")
    add("--warm-up", type=int, default=1, help="rounds before them that do not (1)")
    add("--startup-rounds", type=int, default=20, help="rounds of help pages and lists of snapshots (20)")
    add("--folder", type=Path, default=Path("/dev/shm/keyark-bench"), help="on a tmpfs (/dev/shm/keyark-bench)")
    add("--keep", action="store_true", help="keep the data; the next run takes it")
    add("--files", type=int, default=50_000, help="secrets (50,000)")
    add("--many-files", type=int, default=1_000_000, help="files of the row million; takes 15 GB (1,000,000)")
    add("--tree-from", default="/usr/lib", help="the real tree (/usr/lib)")
    add("--tree-mb", type=int, default=1_000, help="how much of it (1,000)")
    add("--random-mb", type=int, default=1_000, help="random bytes (1,000)")
    add("--chunks", type=int, default=10_000_000, help="chunks of the row index (10,000,000)")
    add("--keyark", default=str(own_keyark), help="the keyark to measure (this Python's)")
    add("--borg", default=str(own_borg) if own_borg.exists() else "borg", help="the borg to measure")
    add("--borg-encryption", default=Borg.encryption, help=f"repokey or repokey-blake2 ({Borg.encryption})")
    add("--json", type=Path, help="write every measurement to this file")
    add("--build-borg", action="store_true", help=f"build {BORG_REQUIREMENT}; needs: apt install {BORG_NEEDS}")
    return parser.parse_args()
