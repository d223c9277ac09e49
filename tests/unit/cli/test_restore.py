"""What a restore tells people."""

from __future__ import annotations

import pytest

from keyark.cli.render import Output
from keyark.cli.verbs.restore import exit_code, name_problems
from keyark.recovery.model import RestoreProblem, RestoreReport


def report(*problems: RestoreProblem, notices: tuple[str, ...] = ()) -> RestoreReport:
    return RestoreReport("ab" * 32, "name", b"/t", 1, 0, 1, 0, 1, 1, 0.1, problems=problems, notices=notices)


def test_damage_is_named_one_by_one_and_small_losses_together(capsys: pytest.CaptureFixture[str]) -> None:
    losses = [RestoreProblem(b"/f%d" % number, "attribute user.x not set: no", False) for number in range(5000)]
    damage = [RestoreProblem(b"/d%d" % number, "block 3 is damaged", True) for number in range(30)]
    found = report(*losses, *damage, notices=("3 objects belong to you now",))
    name_problems(Output(as_json=False, quiet=False, verbose=False, no_progress=True), found)
    lines = capsys.readouterr().err.splitlines()
    assert sum("not restored: block 3" in line for line in lines) == 30
    assert "3 objects belong to you now" in lines[0]
    assert "4,980 more objects" in lines[-1]
    assert len(lines) == 1 + 30 + 20 + 1


def test_exit_codes() -> None:
    loss, damage = RestoreProblem(b"/a", "owner not set", False), RestoreProblem(b"/b", "damaged", True)
    assert exit_code(report()) == 0
    assert exit_code(report(notices=("told",))) == 0
    assert exit_code(report(loss)) == 1
    assert exit_code(report(loss, damage)) == 13
