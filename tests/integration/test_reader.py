"""recover.py, which every repository carries: written from docs/format.md alone, it restores what Keyark stored."""

from __future__ import annotations

import ast
import hashlib
import importlib.util
import json
import os
import subprocess
import sys
import tarfile
from pathlib import Path
from types import ModuleType
from typing import Any

import msgpack
import pytest

from keyark.errors import DamagedError, StorageDenied
from keyark.repository import readme
from keyark.storage.local import LocalStorage
from keyark.upkeep.copy import copy
from keyark.upkeep.slots import rotate
from support import AS_ROOT, Sandbox, keyark

VECTORS = Path(__file__).parent.parent / "vectors"
GOLDEN = VECTORS / "repositories"
NAMES = sorted(path.stem for path in GOLDEN.glob("*.json"))
READER = Path(__file__).parent.parent.parent / "src/keyark/repository/recover.py"
ALLOWED = {"cryptography", "zstandard", "blake3"}
# Runs a program in a process in which nothing of Keyark's, and no other library of its, can be imported.
ALONE = """
import runpy, sys
class Guard:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in ("keyark", "backup_manager", "msgpack", "pyrage", "pyfastcdc", "pydantic", "typer"):
            raise ImportError(f"the reader must do without {name}")
sys.meta_path.insert(0, Guard())
sys.argv = sys.argv[1:]
runpy.run_path(sys.argv[0], run_name="__main__")
"""


def _module(path: Path, name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


describe = _module(VECTORS / "make_repositories.py", "make_repositories").describe


class Golden:
    """One golden repository, unpacked."""

    def __init__(self, name: str, base: Path) -> None:
        self.facts: dict[str, Any] = json.loads((GOLDEN / f"{name}.json").read_text())
        self.folder = base / "repository"
        with tarfile.open(GOLDEN / f"{name}.tar.gz") as archive:
            # Python 3.11.2 of Debian 12 has no filters yet; the archives are our own.
            archive.extractall(self.folder, **({"filter": "tar"} if hasattr(tarfile, "tar_filter") else {}))
        option, file = self.facts["key"]
        self.key = [option, str(GOLDEN / "secrets" / file)]
        self.snapshots: list[dict[str, Any]] = self.facts["snapshots"]

    def recover(self, *arguments: str, reader: Path = READER) -> subprocess.CompletedProcess[str]:
        option = "--passphrase-file" if self.key[0] == "--password-file" else self.key[0]
        known = ["--repository", str(self.folder), "--repository-id", self.facts["repository"], option, self.key[1]]
        return recover(*known, *arguments, reader=reader)

    def restored(self, target: Path) -> list[dict[str, Any]]:
        return comparable(describe(target / self.facts["source"].lstrip("/")))


def recover(*arguments: str, reader: Path = READER) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-I", "-c", ALONE, str(reader), *arguments]
    done = subprocess.run(
        command, capture_output=True, text=True, errors="replace", check=False, stdin=subprocess.DEVNULL
    )
    assert "Traceback" not in done.stderr
    return done


def comparable(tree: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Owners come back only as root."""
    return tree if AS_ROOT else [{key: value for key, value in entry.items() if key != "owner"} for entry in tree]


@pytest.mark.parametrize("name", NAMES)
def test_the_reader_restores_every_golden_repository(name: str, tmp_path: Path) -> None:
    golden = Golden(name, tmp_path)
    for number, snapshot in enumerate(golden.snapshots):
        done = golden.recover("restore", snapshot["name"], "--target", str(tmp_path / str(number)))
        assert (done.returncode, done.stderr) == (0, "")
        assert golden.restored(tmp_path / str(number)) == comparable(snapshot["tree"])


def test_the_reader_that_a_golden_repository_carries_restores_it(tmp_path: Path) -> None:
    golden = Golden("history_key-file", tmp_path)
    done = golden.recover("restore", "the last", "--target", str(tmp_path / "out"), reader=golden.folder / "recover.py")
    assert (done.returncode, done.stderr) == (0, "")
    assert golden.restored(tmp_path / "out") == comparable(golden.snapshots[-1]["tree"])


def test_snapshots_are_listed_in_order_and_found_by_latest_name_and_the_beginning_of_an_id(tmp_path: Path) -> None:
    golden = Golden("history_key-file", tmp_path)
    listed = golden.recover("list").stdout.splitlines()[1:]
    there = iter(listed)  # in this order; forgotten ones are listed as long as they lie there
    assert all(any(snapshot["name"] in line for line in there) for snapshot in golden.snapshots)
    newest = listed[-1].split()[0]
    for number, wanted in enumerate(("latest", newest, newest[:6])):
        assert golden.recover("restore", wanted, "--target", str(tmp_path / f"again {number}")).returncode == 0
        assert golden.restored(tmp_path / f"again {number}") == comparable(golden.snapshots[-1]["tree"])


@pytest.mark.parametrize("name", NAMES)
def test_this_version_restores_and_verifies_every_golden_repository(name: str, tmp_path: Path) -> None:
    golden = Golden(name, tmp_path)
    known = ["-r", str(golden.folder), "--repository-id", golden.facts["repository"], *golden.key]
    for number, snapshot in enumerate(golden.snapshots):
        done = keyark(
            *known, "restore", snapshot["name"], "--target", str(tmp_path / str(number)), home=tmp_path / "home"
        )
        assert done.returncode == 0, done.stderr
        assert golden.restored(tmp_path / str(number)) == comparable(snapshot["tree"])
    done = keyark(*known, "verify", "--read-data", home=tmp_path / "home")
    assert done.returncode == 0, done.stderr


def _objects(golden: Golden) -> list[Path]:
    return sorted(
        path for path in golden.folder.rglob("*") if path.is_file() and "/" in str(path.relative_to(golden.folder))
    )


@pytest.mark.parametrize("where", ["middle", "end"])
def test_a_flipped_bit_in_any_object_is_found_and_nothing_damaged_looks_whole(where: str, tmp_path: Path) -> None:
    golden = Golden("aes-256-gcm-siv_bzip2_key-file", tmp_path)
    snapshot = golden.snapshots[-1]
    whole = {entry["path"]: entry for entry in comparable(snapshot["tree"])}
    noticed: set[str] = set()
    for number, path in enumerate(_objects(golden)):
        name, good, target = str(path.relative_to(golden.folder)), path.read_bytes(), tmp_path / str(number)
        bad = bytearray(good)
        bad[len(bad) // 2 if where == "middle" else -1] ^= 1
        path.write_bytes(bad)
        done = golden.recover("restore", snapshot["name"], "--target", str(target))
        path.write_bytes(good)
        if done.returncode == 0:  # what this snapshot does not need
            assert golden.restored(target) == list(whole.values()), name
            continue
        assert done.returncode == 13, name
        assert name in done.stderr, name
        noticed.add(name.partition("/")[0])
        for entry in golden.restored(target) if target.exists() else ():
            if "sha256" in entry:
                links = {"links": entry["links"]}  # the other name of a hard link may be missing
                assert entry | links == whole[entry["path"]] | links, name
        assert not list(target.rglob(".recover-*"))
    assert noticed == {"keys", "packlists", "packs", "snapshots", "wraps"}


@pytest.mark.parametrize("folder", ["snapshots", "keys"])
def test_a_signature_that_does_not_verify_is_refused_although_the_name_fits(folder: str, tmp_path: Path) -> None:
    golden = Golden("aes-256-gcm-siv_bzip2_key-file", tmp_path)
    path = max(path for path in _objects(golden) if folder in path.parts)
    forged = path.read_bytes()[:-1] + bytes([path.read_bytes()[-1] ^ 1])
    path.rename(path.with_name(f"{path.name[:9]}{hashlib.sha256(forged).hexdigest()}")).write_bytes(forged)
    done = golden.recover("restore", "golden 2", "--target", str(tmp_path / "out"))
    assert done.returncode == 13
    assert "signature is wrong" in done.stderr
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("lie", ["in the chunk", "in chunk and id"])
def test_well_sealed_lies_of_a_writer_do_not_become_files(
    lie: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    golden = Golden("aes-256-gcm-siv_bzip2_key-file", tmp_path)
    reader = _module(READER, "recover_under_test")
    block, chunk_id = reader.Pack.block, reader.Pack.chunk_id

    def other(chunk: bytes) -> bytes:
        return bytes(byte ^ 1 for byte in chunk)

    def lying(pack: Any, number: int) -> list[bytes]:
        return [other(chunk) if pack.kind == "data" else chunk for chunk in block(pack, number)]

    monkeypatch.setattr(reader.Pack, "block", lying)
    if lie == "in chunk and id":
        monkeypatch.setattr(
            reader.Pack, "chunk_id", lambda p, data: chunk_id(p, other(data) if p.kind == "data" else data)
        )
    arguments = [
        "--repository",
        str(golden.folder),
        *golden.key,
        "restore",
        "golden 2",
        "--target",
        str(tmp_path / "out"),
    ]
    monkeypatch.setattr(sys, "argv", ["recover.py", *arguments])
    assert reader.main() == 13
    error = capsys.readouterr().err
    assert ("its SHA-256 is not the recorded one" if lie == "in chunk and id" else "is not what its id says") in error
    assert all(not entry.get("size") for entry in golden.restored(tmp_path / "out"))


def test_when_the_newest_snapshot_may_be_a_damaged_one_latest_is_refused_and_others_go_by_name(tmp_path: Path) -> None:
    golden = Golden("aes-256-gcm-siv_bzip2_key-file", tmp_path)
    path = max(path for path in _objects(golden) if "snapshots" in path.parts)
    path.write_bytes(path.read_bytes()[:-1])
    done = golden.recover("restore", "latest", "--target", str(tmp_path / "out"))
    assert done.returncode == 13
    assert "latest: may be one of the damaged ones" in done.stderr
    assert not (tmp_path / "out").exists()
    assert golden.recover("restore", "golden 1", "--target", str(tmp_path / "out")).returncode == 13
    assert golden.restored(tmp_path / "out") == comparable(golden.snapshots[0]["tree"])


def test_without_its_data_packs_a_snapshot_still_gives_what_needs_no_data(tmp_path: Path) -> None:
    golden = Golden("chacha20-poly1305_gzip_scrypt", tmp_path)
    packs = [path for path in _objects(golden) if "packs" in path.parts]
    data = [path for path in packs if b"\xa1t\x00" in path.read_bytes()[:2000]]  # "t": 0 in the header
    for path in data:
        path.unlink()
    done = golden.recover("restore", "golden 2", "--target", str(tmp_path / "out"))
    assert done.returncode == 13
    assert all(f"packs/{path.parent.name}/{path.name}: is missing" in done.stderr for path in data)
    found = {entry["path"] for entry in golden.restored(tmp_path / "out")}
    needs_data = {entry["path"] for entry in golden.snapshots[1]["tree"] if entry.get("size")}
    assert found == {entry["path"] for entry in golden.snapshots[1]["tree"]} - needs_data
    assert needs_data


def test_wrong_keys_and_wrong_words_end_in_one_line_and_the_documented_exit_code(tmp_path: Path) -> None:
    golden = Golden("aes-256-gcm-siv_bzip2_key-file", tmp_path)
    wrong = tmp_path / "wrong.key"
    wrong.write_text("KEYARK-KEY-1-AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA\n")
    mistyped = tmp_path / "mistyped"
    text = (GOLDEN / "secrets/x25519.identity").read_text()
    mistyped.write_bytes(b"\xff" + text.replace("AGE-SECRET-KEY-1", "AGE-SECRET-KEY-1Q").encode())
    full = tmp_path / "full"
    full.mkdir()
    (full / "mine").touch()
    at = ["--repository", str(golden.folder)]
    identity = str(GOLDEN / "secrets/x25519.identity")
    other = ["--repository-id", "00" * 32, *golden.key]
    for code, arguments in (
        (12, [*at, "--key-file", str(wrong), "list"]),
        (12, [*at, "--passphrase-file", str(wrong), "list"]),
        (12, [*at, "--repository-id", golden.facts["repository"], "--identity", identity, "list"]),
        (2, [*at, "--identity", identity, "list"]),
        (10, ["--repository", str(tmp_path), *golden.key, "list"]),
        (13, [*at, *other, "list"]),
        (2, [*at, "--key-file", str(tmp_path / "none"), "list"]),
        (2, [*at, "list"]),  # nobody there to ask for a passphrase
        (2, [*at, "--repository-id", golden.facts["repository"], "--identity", str(mistyped), "list"]),
        (16, [*at, *golden.key, "restore", "nothing", "--target", str(tmp_path / "out")]),
        (1, [*at, *golden.key, "restore", "latest", "--target", str(full)]),
    ):
        done = recover(*arguments)
        assert done.returncode == code, (arguments, done.stderr)
        assert done.stderr.startswith("recover.py: ")
        assert len(done.stderr.splitlines()) == (2 if code == 13 else 1)
    assert recover(*at, *golden.key, "list").returncode == 0  # a key file's slot proves the id


def test_an_identity_that_anybody_can_seal_to_needs_the_id_and_a_foreign_repository_is_refused(tmp_path: Path) -> None:
    golden = Golden("multi-layer_lzma_age-x25519", tmp_path)
    identity = ["--identity", golden.key[1]]
    assert recover("--repository", str(golden.folder), "--repository-id", "11" * 32, *identity, "list").returncode == 13


def test_the_reader_stands_alone_and_says_that_it_is_not_trusted() -> None:
    tree = ast.parse(READER.read_text())
    imported = {alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names}
    imported |= {str(node.module) for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    assert {name.partition(".")[0] for name in imported} <= ALLOWED | set(sys.stdlib_module_names)
    assert "DO NOT TRUST THIS FILE" in READER.read_text()[:600]
    shown = recover("--help").stdout
    assert "DO NOT TRUST THIS FILE" in shown
    assert "sha256sum recover.py" in shown


@pytest.mark.parametrize(
    "names", [[b".."], [b"."], [b""], [b"a/b"], [b"/etc"], [b"a\0b"], [b"a" * 256], [b"a", b"a"], [b"b", b"a"]]
)
@pytest.mark.parametrize("one_segment", [True, False])
def test_hostile_names_are_refused(names: list[bytes], one_segment: bool, tmp_path: Path) -> None:
    reader = _module(READER, "recover_under_test")
    row = [2, 0o777, 0, 0, 0, 0, b"/etc/passwd", None, None]
    entries = [msgpack.packb([name, *row]) for name in names]
    segments = [b"".join(entries)] if one_segment else entries

    class Chunks:
        def get(self, kind: str, chunk: bytes) -> bytes:
            return segments[chunk[0]]

    class Quiet(reader.Repository):  # type: ignore[name-defined, misc]
        def __init__(self) -> None:
            self.codes, self.reports = set[int](), 0

    (tmp_path / "root").mkdir()
    root = os.open(tmp_path / "root", os.O_RDONLY)
    repository = Quiet()
    reader.Restore(repository, Chunks(), root).folder(root, [bytes([n]) for n in range(len(segments))], b"")
    os.close(root)
    assert repository.codes == {13}
    left = 1 if len(names) == 2 and not one_segment else 0
    assert len(os.listdir(tmp_path / "root")) == left
    assert os.listdir(tmp_path) == ["root"]


# -- in repositories


def test_init_stores_reader_and_readme_and_the_keyring_records_both(sandbox: Sandbox) -> None:
    report = sandbox.init()
    stored = sandbox.storage().get("recover.py")
    assert stored == READER.read_bytes()
    assert report.reader_sha256 == hashlib.sha256(stored).hexdigest()
    with sandbox.open() as repository:
        assert repository.keyring.reader_sha256 == hashlib.sha256(stored).digest()
        assert repository.keyring.readme_sha256 == hashlib.sha256(sandbox.storage().get("README.txt")).digest()
        text = sandbox.storage().get("README.txt").decode()
    assert repository.id.hex() in text
    assert "pip install cryptography zstandard blake3" in text
    assert sandbox.verify().findings == ()


@pytest.mark.parametrize("name", ["recover.py", "README.txt"])
def test_verify_names_a_replaced_and_a_missing_reader_or_readme(ready: Sandbox, name: str) -> None:
    storage = ready.storage()
    storage.put(name, b"print('give me your key')\n", create_only=False)
    report = ready.verify()
    assert not report.sound
    assert [finding.object for finding in report.findings] == [name]
    storage.delete(name)
    report = ready.verify()
    assert not report.sound
    assert "missing" in report.findings[0].what


def test_a_reader_planted_where_none_is_recorded_is_an_integrity_failure(
    sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    old_repository(sandbox, monkeypatch, None)
    report = sandbox.verify()
    assert report.sound
    assert [finding.object for finding in report.findings] == ["recover.py"]
    sandbox.storage().put("recover.py", b"planted")
    assert not sandbox.verify().sound


def old_repository(sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch, reader: bytes | None) -> None:
    """A repository as an older version, with another reader or with none, made it."""
    with monkeypatch.context() as patch:
        patch.setattr(readme, "reader", lambda: reader or b"")
        if reader is None:
            from keyark.repository import create

            made = create.Keyring
            patch.setattr(create, "Keyring", lambda **facts: made(**{**facts, "reader_sha256": None}))
        sandbox.init()
    if reader is None:
        sandbox.storage().delete("recover.py")


@pytest.mark.parametrize("reader", [b"# an older reader\n", None])
def test_a_change_of_keys_renews_the_reader_of_an_old_repository(
    sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch, reader: bytes | None
) -> None:
    old_repository(sandbox, monkeypatch, reader)
    assert sandbox.verify().sound
    with sandbox.open() as repository:
        rotate(repository, sandbox.context)
    assert sandbox.storage().get("recover.py") == READER.read_bytes()
    assert any(hashlib.sha256(READER.read_bytes()).hexdigest() in warning for warning in sandbox.warnings)
    assert sandbox.verify().findings == ()


def test_a_storage_that_keeps_the_old_reader_makes_a_notice_not_an_alarm(
    sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Keeps(LocalStorage):
        def put(self, name: str, data: Any, **options: Any) -> None:
            if name == "recover.py":
                raise StorageDenied("recover.py may not be overwritten")
            super().put(name, data, **options)

    old_repository(sandbox, monkeypatch, b"# an older reader\n")
    with sandbox.open(storage=Keeps(sandbox.location)) as repository:
        rotate(repository, sandbox.context)
    assert any("could not be renewed" in warning for warning in sandbox.warnings)
    report = sandbox.verify()
    assert report.sound
    assert [(finding.object, finding.fatal) for finding in report.findings] == [("recover.py", False)]


def test_copy_carries_the_reader_renews_it_and_leaves_a_replaced_one_behind(
    sandbox: Sandbox, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    old_repository(sandbox, monkeypatch, b"# an older reader\n")
    second = LocalStorage(str(tmp_path / "second"), create=True)
    with sandbox.open() as repository:
        copy(repository, second, sandbox.context)
        assert second.get("recover.py") == b"# an older reader\n"
        rotate(repository, sandbox.context)
        copy(repository, second, sandbox.context)
        assert second.get("recover.py") == READER.read_bytes()
        sandbox.storage().put("recover.py", b"evil", create_only=False)
        rotate_free = {info.name for info in sandbox.storage().list()}
        with pytest.raises(DamagedError, match=r"recover\.py is not the one"):
            copy(repository, second, sandbox.context)
    assert second.get("recover.py") == READER.read_bytes()
    assert rotate_free == {info.name for info in second.list()}
