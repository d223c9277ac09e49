"""Make the golden repositories: one for each suite, codec and kind of slot, and one with a history.

    python tests/vectors/make_repositories.py

runs the installed `keyark` command, as users do, and writes tests/vectors/repositories/NAME.tar.gz beside NAME.json, which says
what a restore must bring back. Keys and nonces are random, so each run makes other bytes; run it again whenever the format
changes before a release. After a release, repositories of its format stay for ever, and new ones get new names. The
keys under secrets/ are for these tests only and protect nothing; they are made once and then used again.
"""

import gzip
import hashlib
import json
import os
import secrets
import shutil
import stat
import subprocess
import sys
import tarfile
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent / "repositories"
SECRETS = HERE / "secrets"
SCENE = Path("/tmp/keyark-golden")  # its name stands in the snapshots, so it is no random one
SOURCE = SCENE / "source"
KEYARK = [str(Path(sys.executable).with_name("keyark")), "--no-progress", "--quiet"]

# name: (options of init, options of the reader's and the program's keys, options of backup)
PLAIN = {
    "aes-256-gcm_zstd_argon2id": (["--new-password-file", "passphrase"], "passphrase", ["--compression", "zstd:3"]),
    "chacha20-poly1305_gzip_scrypt": (
        ["--new-password-file", "passphrase", "--key-derivation", "scrypt", "--suite", "ChaCha20-Poly1305"],
        "passphrase",
        ["--compression", "gzip:6"],
    ),
    "aes-256-gcm-siv_bzip2_key-file": (
        ["--new-key-file", "master.key", "--suite", "AES-256-GCM-SIV"],
        "master.key",
        ["--compression", "bzip2:9"],
    ),
    "multi-layer_lzma_age-x25519": (
        ["--new-recipient", "x25519.recipient", "--suite", "multi-layer"],
        "x25519.identity",
        ["--compression", "lzma:6"],
    ),
    "aes-256-gcm_none_age-mlkem768x25519": (
        ["--new-recipient", "pq.recipient", "--post-quantum-signatures"],
        "pq.identity",
        ["--compression", "none"],
    ),
    "fips_auto_pbkdf2": (
        [
            "--new-password-file",
            "passphrase",
            "--profile",
            "fips",
            "--key-derivation",
            "PBKDF2-SHA256",
            "--iterations",
            "1000",
        ],
        "passphrase",
        ["--compression", "auto"],
    ),
}
KEY_OPTIONS = {
    "passphrase": "--password-file",
    "master.key": "--key-file",
    "x25519.identity": "--identity",
    "pq.identity": "--identity",
}


def main() -> None:
    make_secrets()
    for name, (init, key, backup) in PLAIN.items():
        make_plain(name, init, key, backup)
    make_history("history_key-file")


def keyark(repository: Path, *arguments: str, machine: str = "one") -> str:
    """Run the program as on the machine of that name; its answer."""
    home = SCENE / "machines" / machine
    environment = {"HOME": str(home), "PATH": os.defpath, "LANG": "C.UTF-8"}
    command = [*KEYARK, "--json", "-r", str(repository), *arguments]
    done = subprocess.run(command, env=environment, cwd=SECRETS, capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(f"{' '.join(command)}: exit code {done.returncode}\n{done.stderr}")
    return done.stdout


def make_plain(name: str, init: list[str], key: str, backup: list[str]) -> None:
    """Two snapshots of one source that changed in between."""
    with_scene()
    repository = SCENE / "repository"
    keyark(repository, "init", "--i-accept-a-single-key", *recipients(init))
    expected = []
    make_source(large="zstd" in name)
    for number in (1, 2):
        keyark(repository, "backup", str(SOURCE), *backup, "--name", f"golden {number}")
        expected.append({"name": f"golden {number}", "tree": describe(SOURCE)})
        (SOURCE / "added later").write_text("in the second snapshot only\n")
        (SOURCE / "keys" / "first.key").write_text("changed before the second snapshot\n")
    store(name, repository, key, expected)


def make_history(name: str) -> None:
    """Writers, compartments, rotations, a removed slot, a revoked writer, a forgotten snapshot; all that stands must restore."""
    with_scene()
    repository, expected = SCENE / "repository", []
    admin = ["--key-file", "master.key"]
    keyark(repository, "init", "--new-key-file", "master.key", "--recovery-passphrase-file", "passphrase")
    make_source(large=False)

    def backup(title: str, *options: str, machine: str = "one") -> None:
        (SOURCE / "title").write_text(f"{title}\n")
        keyark(repository, "backup", str(SOURCE), "--name", title, *options, machine=machine)
        expected.append({"name": title, "tree": describe(SOURCE)})

    backup("before everything")
    keyark(repository, *admin, "writer", "add", "two", "-o", str(SCENE / "two.credential"), "--post-quantum-signatures")
    two = ["--credential", str(SCENE / "two.credential")]
    backup("of a writer with a compartment of its own", *two, "--suite", "multi-layer", machine="two")
    keyark(repository, *admin, "key", "add", "--new-recipient", (SECRETS / "x25519.recipient").read_text().strip())
    backup("after a key was added")
    keyark(repository, *admin, "key", "rotate")
    backup("after all keys were changed", "--suite", "ChaCha20-Poly1305", "--compression", "bzip2:9")
    keyark(repository, *admin, "writer", "revoke", "two")
    keyark(repository, *admin, "writer", "add", "ops", "-o", str(SCENE / "ops.credential"), "--operator")
    backup("after a writer was revoked")
    forgotten = expected.pop()
    backup("the last")
    first = next(s for s in snapshots(repository, admin) if s["name"] == forgotten["name"])
    keyark(repository, "--credential", str(SCENE / "ops.credential"), "forget", first["id"])
    store(name, repository, "master.key", expected)


def snapshots(repository: Path, key: list[str]) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads(keyark(repository, *key, "snapshots"))
    return found


def recipients(options: list[str]) -> list[str]:
    return [(SECRETS / option).read_text().strip() if option.endswith(".recipient") else option for option in options]


def with_scene() -> None:
    shutil.rmtree(SCENE, ignore_errors=True)
    SCENE.mkdir(mode=0o700)


def make_source(*, large: bool) -> None:
    """A handful of files with everything that the format can hold and any user can make."""
    keys = SOURCE / "keys"
    (keys / "deep" / "er").mkdir(parents=True)
    (SOURCE / "empty folder").mkdir()
    (keys / "first.key").write_text("TEST ONLY: not a key\n")
    (keys / "first.key").chmod(0o600)
    os.link(keys / "first.key", keys / "deep" / "hard link")
    (keys / "link").symlink_to("first.key")
    (keys / "dangling").symlink_to("/nowhere/at/all")
    os.mkfifo(keys / "fifo", 0o640)
    (keys / "empty").touch()
    Path(os.fsdecode(os.fsencode(keys) + b"/not UTF-8 \xff\xfe")).write_bytes(b"x")
    (keys / "deep" / "er" / "äöü.txt").write_text("UTF-8\n")
    with (SOURCE / "sparse").open("wb") as file:
        file.seek(1 << 20)
        file.write(b"in the middle")
        file.truncate(2 << 20)
    if large:  # more than one chunk; it compresses to little
        lines = (hashlib.sha256(str(i % 1000).encode()).hexdigest() * 8 for i in range(5000))
        (SOURCE / "large").write_text("\n".join(lines))
    for path in sorted(SOURCE.rglob("*"), reverse=True):
        os.utime(path, ns=(0, 1_600_000_000_123_456_789), follow_symlinks=False)
    (keys / "deep").chmod(0o750)


def describe(folder: Path) -> list[dict[str, Any]]:
    """What a restore must bring back: the tests compare with this, and with nothing of the program's own."""
    found = []
    for path in sorted(folder.rglob("*"), key=os.fsencode):
        facts = path.lstat()
        entry: dict[str, Any] = {
            "path": os.fsencode(path.relative_to(folder)).decode("latin-1"),
            "mode": oct(facts.st_mode),
            "mtime": facts.st_mtime_ns,
            "owner": [facts.st_uid, facts.st_gid],
        }
        if stat.S_ISREG(facts.st_mode):
            entry |= {
                "size": facts.st_size,
                "sha256": hashlib.sha256(path.read_bytes()).hexdigest(),
                "links": facts.st_nlink,
            }
        if stat.S_ISLNK(facts.st_mode):
            entry["target"] = os.readlink(path)
        found.append(entry)
    return found


def make_secrets() -> None:
    SECRETS.mkdir(parents=True, exist_ok=True)
    files = {"passphrase": "TEST ONLY pässphrase, protects nothing\n"}
    if not (SECRETS / "master.key").exists():
        files["master.key"] = f"KEYARK-KEY-1-{secrets.token_urlsafe(32)}\n"
    if not (SECRETS / "x25519.identity").exists():
        from pyrage import x25519

        identity = x25519.Identity.generate()
        files["x25519.identity"] = f"# TEST ONLY: protects nothing\n{identity}\n"
        files["x25519.recipient"] = f"{identity.to_public()}\n"
    for name in ("pq.identity", "pq.recipient"):
        files[name] = (HERE.parent / "age" / name).read_text()
    for name, text in files.items():
        (SECRETS / name).write_text(text)
        (SECRETS / name).chmod(0o600)


def store(name: str, repository: Path, key: str, expected: list[dict[str, Any]]) -> None:
    facts = {
        "repository": (repository / "README.txt").read_text().split("Repository id: ")[1].split()[0],
        "key": [KEY_OPTIONS[key], key],
        "source": str(SOURCE),
        "snapshots": expected,
    }
    (HERE / f"{name}.json").write_text(json.dumps(facts, indent=1) + "\n")

    def plain(member: tarfile.TarInfo) -> tarfile.TarInfo:
        member.uid = member.gid = member.mtime = 0
        member.uname = member.gname = ""
        return member

    with (
        (HERE / f"{name}.tar.gz").open("wb") as out,
        gzip.GzipFile("", "wb", fileobj=out, mtime=0) as packed,
        tarfile.open(fileobj=packed, mode="w") as archive,
    ):
        for path in sorted(repository.rglob("*")):
            archive.add(path, path.relative_to(repository), recursive=False, filter=plain)
    shutil.rmtree(SCENE)


if __name__ == "__main__":
    main()
