"""The documented front doors, with the exact lines that are documented."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from support import COVERAGE, REQUIRE, below, fill, run

ROOT = Path(__file__).parent.parent.parent
DOORS = ("backup_automation.sh", "backup_restore.sh", "backup_monitor.sh", "backup_manager.py", "scripts", "src",
         "pyproject.toml", "requirements.lock", "README.md", "LICENSE", "backup_config.json", "monitor_config.json")  # fmt: skip


def checkout(folder: Path) -> Path:
    """A checkout, without what git ignores."""
    folder.mkdir()
    for name in DOORS:
        source = ROOT / name
        if source.is_dir():
            shutil.copytree(source, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(source, folder / name)
    return folder


@pytest.fixture
def door(tmp_path: Path) -> Path:
    """A checkout whose private environment is this test run's own; making one is tested apart."""
    folder = checkout(tmp_path / "clone")
    python = folder / ".keyark/venv/bin/python"
    python.parent.mkdir(parents=True)
    python.write_text(f'#!/bin/sh\nexec {sys.executable} "$@"\n')
    python.chmod(0o755)
    (folder / ".keyark/installed").touch()
    return folder


def shell(line: str, folder: Path, code: int = 0, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run a line in a shell, with an empty HOME and environment."""
    home = folder.parent / "home"
    home.mkdir(exist_ok=True)
    env = {"PATH": os.environ["PATH"], "HOME": str(home), "LANG": "C.UTF-8", **COVERAGE, **environment}
    done = subprocess.run(
        ["bash", "-c", line], cwd=folder, env=env, capture_output=True, text=True, check=False, timeout=280
    )
    assert done.returncode == code, (line, done.returncode, done.stdout, done.stderr)
    assert "Traceback" not in done.stderr
    return done


@pytest.fixture
def keys(tmp_path: Path) -> Path:
    return fill(
        tmp_path / "keys",
        {
            "ca/root.key": b"-----BEGIN PRIVATE KEY-----\nA\n",
            "ca/root.crt": b"certificate",
            "web.key": b"web",
            "notes": b"n",
        },
    )


def test_the_documented_shell_lines(door: Path, keys: Path) -> None:
    shell("chmod +x *.sh", door)
    first = shell(f"./backup_automation.sh backup {keys} --compression-level 6 --retention-days 60", door)
    assert "backup_master.key" in first.stderr
    assert "off this machine" in first.stderr
    assert "./backup_restore.sh restore keys_backup_" in first.stdout
    assert "no damage found" in first.stdout
    assert (door / "backup_master.key").stat().st_mode & 0o777 == 0o600
    assert (door / "backups").stat().st_mode & 0o777 == 0o700
    listed = shell("./backup_restore.sh list", door).stdout
    found = re.search(r"keys_backup_\d{8}_\d{6}", listed)
    assert found is not None
    name = found[0]
    done = shell(f'./backup_restore.sh restore {name}.tar.gz --selective "*.key"', door)
    assert f"restored/{name}" in done.stdout
    assert sorted(path.name for path in (door / "restored").rglob("*") if path.is_file()) == ["root.key", "web.key"]
    shell(f"./backup_restore.sh restore {name}.tar.gz", door, code=2)
    shell(f"./backup_restore.sh restore {name} --target {door}/elsewhere", door)
    assert (below(door / "elsewhere", keys) / "notes").read_bytes() == b"n"
    log = (door / "backup_automation.log").read_text()
    assert name in log
    assert name in (door / "restore.log").read_text()
    assert all((door / item).stat().st_mode & 0o777 == 0o600 for item in ("backup_automation.log", "restore.log"))


@pytest.mark.program("openssl")
def test_the_documented_openssl_line(door: Path, keys: Path) -> None:
    shell(f"./backup_automation.sh backup {keys}", door)
    shell("./backup_automation.sh doctor", door)
    shell("openssl enc -aes-256-cbc -d -in test.enc -out test.dec -pass file:backup_master.key", door)
    assert (door / "test.dec").read_text().startswith("This file was decrypted")


def test_the_documented_python_lines(door: Path, keys: Path) -> None:
    script = f"""
from backup_manager import BackupManager
backup_mgr = BackupManager(config_file='backup_config.json')
result = backup_mgr.create_backup('{keys}')
backups = backup_mgr.list_backups()
report = backup_mgr.restore_backup(result.name + '.tar.gz', '{door}/out')
import dataclasses, json
assert result['snapshot_id'] == result.snapshot_id == backups[0].id == backups[0]['id']
assert dict(result)['files_new'] == 4 and result.get('nothing', 7) == 7 and 'name' in backups[0]
assert report['files_restored'] == 4 and report.problems == []
try:
    result.name = 'x'
except dataclasses.FrozenInstanceError:
    print('frozen')
json.dumps([dict(item) for item in (result, report, *backups)])
"""
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", script],
        cwd=door,
        capture_output=True,
        text=True,
        check=False,
        env={"PATH": os.environ["PATH"], "HOME": str(door), "PYTHONPATH": str(door)},
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout == "frozen\n"
    assert (below(door / "out", keys) / "web.key").read_bytes() == b"web"


def test_monitor_and_interactive_say_that_they_come_later(door: Path) -> None:
    for verb in ("start", "stop", "status", "check", "alerts"):
        assert "not part of this version yet" in shell(f"./backup_monitor.sh {verb}", door, code=2).stderr
    assert "not part of this version yet" in shell("./backup_restore.sh interactive", door, code=2).stderr


def test_the_doors_work_from_any_folder_and_through_links(door: Path, keys: Path, tmp_path: Path) -> None:
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin/backup").symlink_to(door / "backup_automation.sh")
    shell(f"cd {keys.parent} && {tmp_path}/bin/backup backup keys", door)
    assert (door / "backups/keys").is_dir()
    shell(f"cd / && {door}/backup_restore.sh list", door)
    assert not (tmp_path / "bin/backups").exists()


def test_two_first_uses_at_once_do_not_collide(door: Path, keys: Path) -> None:
    with ThreadPoolExecutor(3) as pool:
        runs = list(pool.map(lambda _: shell(f"./backup_automation.sh backup {keys}", door), range(3)))
    assert len(runs) == 3
    listed = json.loads(shell("./backup_restore.sh list --json", door).stdout)
    assert len(listed) == 3
    assert len({item["name"] for item in listed}) == 3, "names of one second are told apart"
    assert len(list((door / "backups/keys").iterdir())) == 1
    shell("./backup_automation.sh verify --read-data", door)


def test_backups_go_on_when_the_key_was_moved_off_the_machine(door: Path, keys: Path, tmp_path: Path) -> None:
    shell(f"./backup_automation.sh backup {keys}", door)
    shutil.move(door / "backup_master.key", tmp_path / "safe.key")
    fill(keys, {"later.key": b"later"})
    done = shell(f"./backup_automation.sh backup {keys}", door)
    assert "is not on this machine" in done.stderr
    assert not (door / "backup_master.key").exists(), "no new key is made for an old repository"
    shell("./backup_restore.sh list", door, code=12)
    shutil.copy(tmp_path / "safe.key", door / "backup_master.key")
    shell("./backup_restore.sh restore latest", door)
    assert [path.read_bytes() for path in (door / "restored").rglob("later.key")] == [b"later"]


def config(door: Path, **changes: dict[str, object]) -> None:
    value = json.loads((ROOT / "backup_config.json").read_text())
    for section, keys in changes.items():
        value.setdefault(section, {}).update(keys)
    (door / "backup_config.json").write_text(json.dumps(value))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"backup_settings": {"retention_dayz": 3}}, "unknown key 'backup_settings.retention_dayz'"),
        ({"extra": {"x": 1}}, "unknown key 'extra'"),
        ({"backup_settings": {"retention_days": "30"}}, "backup_settings.retention_days"),
        ({"backup_settings": {"compression_level": 99}}, "level of zstd"),
        ({"backup_settings": {"encryption_enabled": False}}, "always sealed"),
        ({"storage": {"cloud_encryption": False}}, "always sealed"),
        ({"encryption": {"algorithm": "Fernet"}}, "export"),
        ({"encryption": {"algorithm": "RSA"}}, "export"),
        ({"encryption": {"algorithm": "ROT13"}}, "unknown"),
        ({"encryption": {"iterations": 0}}, "encryption.iterations"),
        ({"backup_settings": {"max_backups": 0}}, "backup_settings.max_backups"),
        ({"storage": {"backends": ["local", "azure"]}}, "storage.azure"),
        ({"storage": {"backends": ["tape"]}}, "storage.backends"),
        ({"storage": {"s3": {"bucket": "b"}}}, "s3"),
    ],
)
def test_a_wrong_configuration_is_one_clear_line_and_makes_nothing(
    door: Path, keys: Path, changes: dict[str, dict[str, object]], message: str
) -> None:
    config(door, **changes)
    done = shell(f"./backup_automation.sh backup {keys}", door, code=2)
    assert message in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1
    assert not (door / "backups/keys").exists()


def test_every_key_of_the_configuration_works(door: Path, keys: Path) -> None:
    (door / "phrase").write_text("a recovery phrase\n")
    (door / "phrase").chmod(0o600)
    config(
        door,
        backup_settings={
            "max_backups": 2,
            "compression": "gzip",
            "compression_level": 4,
            "verification_enabled": False,
        },
        encryption={"algorithm": "multi-layer", "recovery_passphrase_file": "phrase"},
        storage={"local_path": "./elsewhere", "backends": ["local"]},
    )
    first = shell(f"./backup_automation.sh backup {keys}", door)
    assert "OWASP" in first.stderr, "100,000 iterations are the documented ones, and weak"
    assert "no damage found" not in first.stdout
    for number in range(3):
        fill(keys, {f"new {number}": b"n"})
        last = shell(f"./backup_automation.sh backup {keys}", door)
    assert "1 older snapshot forgotten" in last.stdout
    assert len(json.loads(shell("./backup_restore.sh list --json", door).stdout)) == 2
    assert (door / "elsewhere/keys").is_dir()
    listed = shell("./backup_automation.sh key list", door).stdout
    assert "PBKDF2-SHA256, 100,000 iterations" in listed
    packs = [path.read_bytes() for path in (door / "elsewhere/packs").rglob("*") if path.is_file()]
    assert {int.from_bytes(data[8:10], "big") for data in packs} == {4}


def test_configured_sources_and_excludes_are_used_without_a_path(door: Path, keys: Path) -> None:
    value = json.loads((ROOT / "backup_config.json").read_text())
    value |= {"sources": [str(keys)], "excludes": ["*.crt"]}
    (door / "backup_config.json").write_text(json.dumps(value))
    shell("./backup_automation.sh backup", door)
    shell("./backup_restore.sh restore latest --target out", door)
    assert not list((door / "out").rglob("*.crt"))
    assert list((door / "out").rglob("*.key"))


@pytest.mark.program("ssh-keygen")
def test_without_a_path_what_discover_finds_is_backed_up(door: Path) -> None:
    folder = door.parent / "home/.ssh"
    folder.mkdir(parents=True)
    run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(folder / "id_ed25519")])
    done = shell("./backup_automation.sh backup", door)
    assert "SSH private key" in done.stdout
    shell("./backup_restore.sh restore latest --target out", door)
    assert [path.name for path in (door / "out").rglob("id_ed25519*")] != []
    assert not list((door / "out").rglob("backup_master.key"))


def test_a_missing_python_or_venv_is_one_clear_line(tmp_path: Path) -> None:
    folder = checkout(tmp_path / "clone")
    tools = tmp_path / "tools"
    tools.mkdir()
    for name in ("bash", "env", "dirname", "readlink", "mkdir", "find", "flock", "rm", "cat", "touch"):
        (tools / name).symlink_to(shutil.which(name) or f"/usr/bin/{name}")
    done = shell("./backup_automation.sh backup", folder, code=1, PATH=str(tools))
    assert done.stderr == "keyark: Python 3.11 or newer is missing; install it: apt-get install python3 python3-venv\n"
    fake = tools / "python3"
    fake.write_text(f'#!/bin/bash\ncase "$*" in *venv*) exit 1 ;; *) exec {sys.executable} "$@" ;; esac\n')
    fake.chmod(0o755)
    done = shell("./backup_automation.sh backup", folder, code=1, PATH=str(tools))
    assert done.stderr == "keyark: python3-venv is missing; install it: apt-get install python3-venv\n"


def test_an_installation_that_fails_says_what_failed_in_one_line(tmp_path: Path) -> None:
    folder = checkout(tmp_path / "clone")
    tools = tmp_path / "tools"
    tools.mkdir()
    fake = tools / "python3"
    for said, message in (
        ("", "cannot make the environment; "),
        ("no space", "cannot make the environment: no space; "),
    ):
        fake.write_text(f'#!/bin/bash\n[[ "$*" == "-m venv"* ]] || exit 0\necho "{said}"\nexit 1\n')
        fake.chmod(0o755)
        path = f"{tools}:{os.environ['PATH']}"
        done = shell("./backup_automation.sh backup", folder, code=1, PATH=path)
        assert message in done.stderr
        assert "bootstrap.log" in done.stderr.splitlines()[-1]


def test_every_other_verb_works_at_the_automation_door(door: Path, keys: Path) -> None:
    shell(f"./backup_automation.sh backup {keys}", door)
    assert "keys_backup_" in shell("./backup_automation.sh list", door, KEYARK_REPOSITORY="/nonexistent").stdout
    shell(f"./backup_automation.sh restore latest --target {door}/out", door)
    assert (below(door / "out", keys) / "notes").read_bytes() == b"n"
    assert "not part of this version yet" in shell("./backup_automation.sh export latest", door, code=2).stderr
    assert "invalid choice" in shell("./backup_automation.sh frobnicate", door, code=2).stderr


def test_options_stand_before_or_after_the_verb_and_foreign_ones_are_refused(door: Path, keys: Path) -> None:
    (door / "other.json").write_text('{"storage": {"local_path": "./other"}}')
    shell(f"./backup_automation.sh --config other.json --json backup {keys}", door)
    assert (door / "other/keys").is_dir()
    assert len(json.loads(shell("./backup_restore.sh --json list --config other.json", door).stdout)) == 1
    assert len(json.loads(shell("./backup_automation.sh snapshots --json --config other.json", door).stdout)) == 1
    assert "use `keyark`" in shell(f"./backup_automation.sh backup {keys} -r /elsewhere", door, code=2).stderr
    assert "empty PATH" in shell('./backup_automation.sh backup "$UNSET"', door, code=2).stderr


def test_the_master_key_may_lie_elsewhere(door: Path, keys: Path, tmp_path: Path) -> None:
    key = tmp_path / "usb.key"
    first = shell(f"./backup_automation.sh backup {keys} --key-file {key}", door)
    assert "off this machine" not in first.stderr
    assert not (door / "backup_master.key").exists()
    assert key.stat().st_mode & 0o777 == 0o600
    assert "--key-file" in shell("./backup_restore.sh list", door, code=12).stderr
    shell(f"./backup_restore.sh list --key-file {key}", door)
    key.chmod(0o644)
    assert "chmod 600" in shell(f"./backup_restore.sh list --key-file {key}", door).stderr
    assert "--strict" in shell(f"./backup_restore.sh list --key-file {key} --strict", door, code=2).stderr


def test_retention_days_and_max_backups_both_bind_but_never_the_newest(door: Path, keys: Path) -> None:
    config(door, backup_settings={"retention_days": 1, "max_backups": 3})
    for number in range(5):
        fill(keys, {"changing": str(number).encode()})
        shell(f"./backup_automation.sh backup {keys} -q", door)
    assert len(json.loads(shell("./backup_restore.sh list --json", door).stdout)) == 3
    config(door, backup_settings={"retention_days": 1, "max_backups": 1})
    shell(f"./backup_automation.sh backup {keys} -q", door)
    newest = json.loads(shell("./backup_restore.sh list --json", door).stdout)
    assert len(newest) == 1
    shell("./backup_restore.sh restore latest --target out", door)


@pytest.mark.skipif(not REQUIRE, reason="makes a real environment, which needs a package index; .ci/run does it")
def test_the_first_use_of_a_fresh_checkout_makes_its_own_environment(tmp_path: Path, keys: Path) -> None:
    folder = checkout(tmp_path / "clone")
    with ThreadPoolExecutor(2) as pool:
        runs = list(pool.map(lambda _: shell(f"./backup_automation.sh backup {keys}", folder), range(2)))
    assert sum("preparing its private environment" in done.stderr for done in runs) == 1
    assert len(json.loads(shell("./backup_restore.sh list --json", folder).stdout)) == 2
    line = "python3 -c 'from backup_manager import BackupManager; print(len(BackupManager().list_backups()))'"
    done = shell(f".keyark/venv/bin/{line}", folder)
    assert done.stdout == "2\n"
