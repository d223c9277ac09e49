"""Any single flipped, missing, truncated, swapped or foreign object is found, named, and traced to what it touches."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

from keyark.backup.model import BackupRequest
from keyark.backup.run import backup
from keyark.crypto.kdf import pbkdf2
from keyark.crypto.slots import KeyFileSlot, PassphraseSlot
from keyark.errors import IntegrityError
from keyark.repository.create import NewSlot
from keyark.secret import Secret
from keyark.upkeep.forget import forget
from keyark.upkeep.model import ForgetRequest, VerifyReport
from keyark.upkeep.writers import add_writer
from support import Sandbox, below, fill, flip, picture


@pytest.fixture
def stocked(sandbox: Sandbox, tmp_path: Path) -> Sandbox:
    """Two slots, an operator, two snapshots, a tombstone: every type of object is there."""
    sandbox.init(
        NewSlot(KeyFileSlot(sandbox.line), "master"), NewSlot(PassphraseSlot(Secret(b"x"), pbkdf2(1000)), "paper")
    )
    source = fill(tmp_path / "source", {f"dir/{number}.key": os.urandom(3000) for number in range(30)})
    (source / "large").write_bytes(os.urandom(3 << 20))
    sandbox.backup(source)
    fill(source, {"more/new.key": os.urandom(2000)})
    sandbox.backup(source)
    sandbox.backup(source)
    with sandbox.open() as repository:
        add_writer(repository, "op", str(sandbox.base / "op.credential"), operator=True, context=sandbox.context)
        forget(repository, ForgetRequest(keep_last=2), sandbox.context)
    assert sandbox.verify().sound
    return sandbox


def found(sandbox: Sandbox) -> tuple[str, VerifyReport | None]:
    """What is said about a damaged repository: the error that stops it from being opened, or the findings."""
    try:
        report = sandbox.verify()
    except IntegrityError as e:
        return str(e), None
    assert not report.sound
    return " ".join(item.what for item in report.findings if item.fatal), report


def test_one_flipped_bit_in_every_object_is_found_and_named(stocked: Sandbox) -> None:
    for name in stocked.objects():
        path = Path(stocked.location) / name
        original = path.read_bytes()
        for position in (5, len(original) // 2, len(original) - 1):
            flip(path, position, position % 8)
            text, report = found(stocked)
            assert name in text, f"{name}, byte {position}: {text}"
            if name.startswith("packs/"):
                assert report is not None
                (finding,) = [item for item in report.findings if item.fatal]
                assert len(finding.snapshots) in (1, 2)
                assert finding.files
            path.write_bytes(original)
    assert stocked.verify().sound


def test_every_missing_object_that_matters_is_found_and_named(stocked: Sandbox) -> None:
    harmless = []
    for name in stocked.objects():
        path = Path(stocked.location) / name
        original = path.read_bytes()
        path.unlink()
        try:
            report = stocked.verify()
            text = " ".join(item.what for item in report.findings if item.fatal)
            if report.sound:
                harmless.append(name)
        except IntegrityError as e:
            text = str(e)
        if name not in harmless and not name.startswith("marks/"):
            named = "index/" if name.startswith("index/") else name.rpartition("/")[0]  # nobody knows an index's name
            named = "keyring" if name.startswith("keys/") and "keyring" in text else named
            assert named in text, f"{name}: {text}"
        path.write_bytes(original)
    # Nothing is lost with these: a first look that is seen again, the lists of the snapshot that was forgotten.
    assert {name.partition("/")[0] for name in harmless} <= {"marks", "packlists", "snapshots", "wraps"}
    assert stocked.verify().sound


def test_every_truncated_object_is_found(stocked: Sandbox) -> None:
    for name in stocked.objects():
        path = Path(stocked.location) / name
        original = path.read_bytes()
        path.write_bytes(original[: len(original) // 2])
        text, _ = found(stocked)
        assert name in text, f"{name}: {text}"
        path.write_bytes(original)


def test_swapped_objects_are_found(stocked: Sandbox) -> None:
    for top in ("packs", "snapshots", "index", "packlists", "wraps"):
        names = stocked.objects(top)[:2]
        assert len(names) == 2
        one, two = (Path(stocked.location) / name for name in names)
        first, second = one.read_bytes(), two.read_bytes()
        one.write_bytes(second)
        two.write_bytes(first)
        text, _ = found(stocked)
        assert names[0] in text or names[1] in text, f"{names}: {text}"
        one.write_bytes(first)
        two.write_bytes(second)


def test_foreign_objects_are_found(stocked: Sandbox, tmp_path: Path) -> None:
    other = Sandbox(tmp_path / "other")
    other.init()
    other.backup(fill(tmp_path / "elsewhere", {"x": b"1"}))
    for top in ("packs", "marks", "wraps", "keys"):
        names = other.objects(top) or [f"marks/{'0' * 64}"]
        path = Path(stocked.location) / names[0]
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(other.storage().get(names[0]) if top != "marks" else b"KEYARK forged")
        text, _ = found(stocked)
        assert names[0] in text, f"{names[0]}: {text}"
        path.unlink()
    (Path(stocked.location) / "packs/stray").write_bytes(b"what is this")
    text, _ = found(stocked)
    assert "packs/stray" in text


def test_a_damaged_pack_costs_only_its_own_files(stocked: Sandbox, tmp_path: Path) -> None:
    large = next(name for name in stocked.objects("packs") if (Path(stocked.location) / name).stat().st_size > 1 << 20)
    flip(Path(stocked.location) / large, 100_000)
    report = stocked.restore("latest", stocked.base / "target")
    assert report.problems
    assert all(item.integrity for item in report.problems)
    back = below(stocked.base / "target", tmp_path / "source")
    damaged = {os.path.relpath(os.fsdecode(item.path), tmp_path / "source") for item in report.problems}
    expected = picture(tmp_path / "source")
    restored = picture(back)
    for path, value in expected.items():
        name = os.fsdecode(path)
        if name in damaged:
            assert path not in restored, "nothing damaged is left looking whole"
        elif value[6] is not None:
            assert restored[path][6] == value[6]
    assert (back / "more/new.key").exists()
    assert not list(back.rglob(".keyark-*"))


def test_a_torn_or_missing_index_bricks_nothing_and_is_rebuilt_from_packs(stocked: Sandbox, tmp_path: Path) -> None:
    names = stocked.objects("index")
    (Path(stocked.location) / names[0]).write_bytes(b"KEYARK torn")
    for name in names[1:]:
        (Path(stocked.location) / name).unlink()
    shutil.rmtree(stocked.places.cache_dir)
    assert not stocked.verify(read_data=False).sound
    assert stocked.restore("latest", stocked.base / "before repair", verify=True).problems == ()
    assert stocked.backup(tmp_path / "source").data_added < 1000  # the folder above changed
    repaired = stocked.verify(repair_index=True)
    assert repaired.index_repaired
    assert repaired.sound
    shutil.rmtree(stocked.places.cache_dir)
    assert stocked.verify().sound
    assert stocked.backup(tmp_path / "source").data_added < 1000  # the folder above changed
    assert stocked.restore("latest", stocked.base / "after repair").problems == ()


def test_garbage_of_a_crash_is_a_notice(stocked: Sandbox, tmp_path: Path) -> None:
    before = set(stocked.objects())
    with stocked.open() as repository:
        backup(
            repository,
            BackupRequest(paths=(os.fsencode(fill(tmp_path / "late", {"a": os.urandom(9000)})),)),
            stocked.context,
        )
    for name in set(stocked.objects()) - before:
        if not name.startswith("packs/"):
            (Path(stocked.location) / name).unlink()
    shutil.rmtree(Path(stocked.places.state_dir))  # the snapshot is not missed by this machine's memory
    report = stocked.verify()
    assert report.sound, report.findings
    assert sum(item.object.startswith("packs/") for item in report.findings) == 2


def test_a_damaged_cache_is_replaced(stocked: Sandbox, tmp_path: Path) -> None:
    for path in Path(stocked.places.cache_dir).rglob("cache.sqlite3"):
        path.write_bytes(b"not a database" * 100)
    assert stocked.backup(tmp_path / "source").data_added < 1000  # the folder above changed
    assert stocked.verify().sound
