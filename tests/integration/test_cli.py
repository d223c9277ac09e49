"""The command line as users meet it: verbs, options, messages, exit codes."""

from __future__ import annotations

import json
import os
import pty
import select
import shutil
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

from keyark.cli.globals import VERB_VALUES
from keyark.cli.main import LATER, VERBS
from keyark.cli.verbs.completion import _options
from support import Sandbox, below, fill, keyark


class Cli:
    """One user with an empty HOME and one repository."""

    def __init__(self, base: Path) -> None:
        self.base = base
        self.home = base / "home"
        self.home.mkdir()
        self.location = str(base / "repository")
        self.key = str(base / "master.key")

    def __call__(self, *arguments: str, stdin: bytes | None = None, code: int = 0, **environment: str) -> str:
        done = keyark("-r", self.location, *arguments, home=self.home, stdin=stdin, **environment)
        self.errors = done.stderr.decode()
        assert done.returncode == code, (arguments, done.returncode, done.stdout, done.stderr)
        assert "Traceback" not in self.errors
        return done.stdout.decode()

    def read(self, *arguments: str, **options: object) -> str:
        return self("--key-file", self.key, *arguments, **options)  # type: ignore[arg-type]


@pytest.fixture
def cli(tmp_path: Path) -> Cli:
    return Cli(tmp_path)


@pytest.fixture
def stocked(cli: Cli, tmp_path: Path) -> Cli:
    cli("init", "--new-key-file", cli.key, "--i-accept-a-single-key")
    fill(tmp_path / "source", {"one.key": b"1" * 1000, "dir/two.pem": b"2" * 2000, "dir/three": b"3"})
    cli("backup", str(tmp_path / "source"), "--tag", "nightly", "--name", "first")
    return cli


def test_init_prints_the_id_and_how_to_recover_and_insists_on_a_second_way_in(cli: Cli) -> None:
    cli("init", "--new-key-file", cli.key, code=2)
    assert "only one way in" in cli.errors
    assert not os.path.exists(cli.key), "a failed init takes its key file back"
    cli("init", code=2)
    assert "needs a key" in cli.errors
    text = cli("init", "--new-key-file", cli.key, "--i-accept-a-single-key")
    assert "id  " in text
    assert "restore latest" in text
    assert os.stat(cli.key).st_mode & 0o777 == 0o600
    for parent, folders, files in os.walk(cli.location):
        assert all(os.stat(os.path.join(parent, name)).st_mode & 0o777 == 0o700 for name in folders)
        assert all(os.stat(os.path.join(parent, name)).st_mode & 0o777 == 0o600 for name in files)
    cli("init", "--new-key-file", cli.key, "--i-accept-a-single-key", code=2)
    assert "already" in cli.errors


def test_the_first_listing_of_an_empty_repository_says_what_to_do_next(cli: Cli) -> None:
    cli("init", "--new-key-file", cli.key, "--i-accept-a-single-key")
    assert f"keyark -r {cli.location} backup PATH" in cli.read("snapshots")


def test_a_session_from_backup_to_restore(stocked: Cli, tmp_path: Path) -> None:
    source = tmp_path / "source"
    fill(source, {"one.key": b"changed", "new": b"n"})
    summary = json.loads(stocked("--json", "backup", str(source)).splitlines()[-1])
    assert summary["message_type"] == "summary"
    assert (summary["files_new"], summary["files_changed"], summary["files_unmodified"]) == (1, 1, 2)
    assert set(summary) >= {
        "snapshot_id",
        "name",
        "data_added",
        "data_added_packed",
        "total_files_processed",
        "total_bytes_processed",
        "total_duration",
    }
    listed = json.loads(stocked.read("--json", "snapshots"))
    assert [item["name"] for item in listed] == ["first", summary["name"]]
    assert set(listed[0]) >= {"id", "short_id", "name", "time", "hostname", "username", "paths", "tags", "summary"}
    assert listed[0]["time"].endswith("Z")
    assert json.loads(stocked.read("list", "--json", "--tag", "nightly"))[0]["tags"] == ["nightly"]
    assert "one.key" in stocked.read("ls", "first", str(source))
    assert "two.pem" in stocked.read("find", "*.pem")
    difference = stocked.read("diff", "first", "latest")
    assert f"M    {source}/one.key" in difference
    assert f"+    {source}/new" in difference
    assert "restore size" in stocked.read("stats")
    assert "no damage found" in stocked.read("check", "--read-data")
    stocked.read("restore", "first.tar.gz", "--target", str(tmp_path / "out"), "--verify")
    assert (below(tmp_path / "out", source) / "one.key").read_bytes() == b"1" * 1000
    stocked.read("restore", "latest", "--target", str(tmp_path / "some"), "--include", "*.pem")
    assert [path.name for path in (tmp_path / "some").rglob("*") if path.is_file()] == ["two.pem"]
    assert "1 snapshot forgotten" in stocked.read("forget", "--keep-last", "1", "--prune")
    assert "no damage found" in stocked.read("verify")


def test_global_options_stand_before_or_after_the_verb(stocked: Cli) -> None:
    done = keyark("snapshots", "--json", f"--repo={stocked.location}", "--key-file", stocked.key, home=stocked.home)
    assert json.loads(done.stdout)[0]["name"] == "first"
    done = keyark("snapshots", home=stocked.home, KEYARK_REPOSITORY=stocked.location, KEYARK_KEY_FILE=stocked.key)
    assert done.returncode == 0


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["frobnicate"], 2, "unknown verb"),
        (["snapshot"], 2, "did you mean 'snapshots'"),
        (["backup"], 2, "nothing to back up"),
        (["backup", "relative/nowhere"], 2, "does not exist"),
        (["backup", ""], 2, "empty PATH"),
        (["backup", "/etc/hostname", ""], 2, "empty PATH"),
        (["restore", "latest", "--target", ""], 2, "--target"),
        (["snapshots", "--config", "/nonexistent.json"], 2, "/nonexistent.json"),
        (["snapshots", "--password", "hunter2"], 2, "never taken from the command line"),
        (["ls"], 2, "see `keyark ls --help`"),
        (["backup", "/etc/hostname", "--compression", "zstd:99"], 2, "level of zstd"),
        (["backup", "/etc/hostname", "--compression", "brotli"], 2, "unknown"),
        (["backup", "/etc/hostname", "--suite", "RSA"], 2, "export"),
        (["backup", "/etc/hostname", "--nonsense"], 2, "no such option"),
        (["backup", "--stdin-name", "x"], 2, "--stdin"),
        (["restore", "latest"], 2, "--target"),
        (["restore", "--target", "/tmp/x"], 2, "which snapshot"),
        (["restore", "nope", "--target", "/tmp/x"], 16, "nope"),
        (["restore", "--at", "yesterday", "--target", "/tmp/x"], 2, "malformed"),
        (["restore", "--at", "2001-01-01", "--target", "/tmp/x"], 16, "before that time"),
        (["restore", "latest", "--target", "/tmp/x", "--overwrite", "perhaps"], 2, "always, if-changed or never"),
        (["restore", "latest", "--target", "/etc"], 2, "not empty"),
        (["ls", "latest", "/no/such/path"], 16, "/no/such/path"),
        (["find", "nothing-like-this"], 16, "nothing matches"),
        (["forget"], 2, "no rule"),
        (["forget", "--keep-within", "5 weeks"], 2, "malformed"),
        (["verify", "--read-data-subset", "some"], 2, "malformed"),
        (["key", "remove", "ffffffff"], 16, "no key"),
        (["writer", "revoke", "nobody"], 16, "nobody"),
        (["key", "add"], 2, "name the new key"),
        (["key", "add", "--new-recipient", "age1xyz"], 2, "age recipient"),
    ],
)
def test_wrong_input_gets_one_clear_line_and_the_right_exit_code(
    stocked: Cli, arguments: list[str], code: int, message: str
) -> None:
    before = {name: os.stat(name).st_mtime_ns for name in _files(stocked.location)}
    stocked.read(*arguments, code=code)
    assert message in stocked.errors
    assert len(stocked.errors.strip().splitlines()) == 1
    assert {name: os.stat(name).st_mtime_ns for name in _files(stocked.location)} == before


def _files(folder: str) -> list[str]:
    return [os.path.join(parent, name) for parent, _, names in os.walk(folder) for name in names]


def test_errors_of_place_and_key_have_their_exit_codes(stocked: Cli, tmp_path: Path) -> None:
    done = keyark("-r", str(tmp_path / "nowhere"), "snapshots", home=stocked.home)
    assert (done.returncode, b"no repository" in done.stderr) == (10, True)
    done = keyark("snapshots", home=stocked.home)
    assert (done.returncode, b"KEYARK_REPOSITORY" in done.stderr) == (2, True)
    done = keyark("-r", "s3://bucket/x", "snapshots", home=stocked.home)
    assert (done.returncode, b"s3" in done.stderr) == (2, True)
    other = tmp_path / "other.key"
    other.write_text("KEYARK-KEY-1-" + "Zy1Xw2Vu3Ts" * 4 + "\n")
    other.chmod(0o600)
    stocked("--key-file", str(other), "snapshots", code=12)
    assert "none of the given keys" in stocked.errors
    weak = tmp_path / "weak.key"
    weak.write_text("hunter2\n")
    weak.chmod(0o600)
    stocked("--key-file", str(weak), "snapshots", code=2)
    assert "256" in stocked.errors
    stocked("--key-file", str(tmp_path), "snapshots", code=2)
    assert "not a regular file" in stocked.errors
    stocked("--password-command", " ", "snapshots", code=2)
    assert "empty" in stocked.errors
    stocked("snapshots", code=15)
    done = keyark(
        "-r", stocked.location, "snapshots", home=tmp_path / "elsewhere", KEYARK_STATE_DIR=str(tmp_path / "s")
    )
    assert done.returncode == 12


def test_an_exposed_key_file_draws_a_warning_and_is_refused_with_strict(stocked: Cli) -> None:
    os.chmod(stocked.key, 0o644)
    stocked.read("snapshots")
    assert "chmod 600" in stocked.errors
    stocked.read("snapshots", "--strict", code=2)


def test_unreadable_sources_are_named_and_end_with_exit_code_3(stocked: Cli, tmp_path: Path) -> None:
    stocked("backup", str(tmp_path / "source"), str(tmp_path / "gone"), code=3)
    assert str(tmp_path / "gone") in stocked.errors
    problems = json.loads(stocked.read("--json", "snapshots", "--last", "1"))[0]["summary"]["problems"]
    assert problems == 1


def test_a_stream_goes_in_by_stdin(stocked: Cli, tmp_path: Path) -> None:
    stocked("backup", "--stdin", "--stdin-name", "vault.snap", stdin=b"raft" * 100_000)
    stocked.read("restore", "latest", "--target", str(tmp_path / "out"))
    assert (tmp_path / "out/vault.snap").read_bytes() == b"raft" * 100_000


def test_passphrases_come_from_files_and_commands_only(cli: Cli, tmp_path: Path) -> None:
    for name, text in (("one", "first phrase\n"), ("two", "second phrase")):
        (tmp_path / name).write_text(text)
        (tmp_path / name).chmod(0o600)
    cli("init", "--new-password-file", str(tmp_path / "one"), "--recovery-passphrase-file", str(tmp_path / "two"),
        "--key-derivation", "PBKDF2-SHA256", "--iterations", "100000")  # fmt: skip
    assert "OWASP" in cli.errors
    cli("--password-file", str(tmp_path / "two"), "snapshots")
    cli("--password-command", f"head -1 {tmp_path / 'one'}", "snapshots")
    cli("--password-command", "false", "snapshots", code=2)
    cli("snapshots", KEYARK_PASSWORD_COMMAND="echo second phrase")
    text = cli("--password-file", str(tmp_path / "one"), "key", "list")
    assert "100,000 iterations" in text


def test_dry_runs_change_nothing(stocked: Cli, tmp_path: Path) -> None:
    fill(tmp_path / "source", {"new": b"n" * 100})
    before = sorted(_files(stocked.location))
    assert "nothing was stored" in stocked("backup", "-n", str(tmp_path / "source"))
    assert "new" not in stocked.read("restore", "latest", "-n")
    stocked.read("forget", "--keep-last", "1", "--dry-run")
    stocked.read("prune", "--dry-run")
    assert sorted(_files(stocked.location)) == before


@pytest.mark.parametrize("policy", ["always", "if-changed", "never"])
def test_overwrite_policies(stocked: Cli, tmp_path: Path, policy: str) -> None:
    out = tmp_path / "out"
    stocked.read("restore", "latest", "--target", str(out))
    back = below(out, tmp_path / "source")
    (back / "one.key").write_bytes(b"edited meanwhile")
    (back / "mine").write_bytes(b"kept")
    stocked.read("restore", "latest", "--target", str(out), "--overwrite", policy)
    expected = b"edited meanwhile" if policy == "never" else b"1" * 1000
    assert (back / "one.key").read_bytes() == expected
    assert (back / "mine").read_bytes() == b"kept"


def test_every_verb_explains_itself_with_an_example_and_help_is_quick_to_find(cli: Cli) -> None:
    done = keyark("--help", home=cli.home)
    text = done.stdout.decode()
    assert all(f"  {verb} " in text for verb in VERBS)
    below = [("key", name) for name in ("list", "add", "remove", "rotate")]
    below += [("writer", name) for name in ("list", "add", "revoke")]
    for verb in [(name,) for name in VERBS] + below:
        done = keyark(*verb, "--help", home=cli.home)
        assert done.returncode == 0
        assert b"Examples:" in done.stdout, verb
        assert b"<str>" not in done.stdout, verb
        assert keyark("help", *verb, home=cli.home).stdout == done.stdout


def test_help_loads_nothing_heavy(cli: Cli) -> None:
    script = """
import sys
from keyark.cli.main import main
main(sys.argv[1:])
heavy = {"pydantic", "cryptography", "msgpack", "zstandard", "blake3", "pyrage", "sqlite3", "rich", "keyark.manager"}
assert not heavy & set(sys.modules), heavy & set(sys.modules)
"""
    environment = {"PATH": os.environ["PATH"], "HOME": str(cli.home)}
    for verb in VERBS:
        command = [sys.executable, "-c", script, verb, "--help"]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
        assert done.returncode == 0, (verb, done.stderr)


def test_every_option_with_a_value_is_known_as_one() -> None:
    for verb, found in _options().items():
        for names, takes, _, _ in found:
            assert takes == (set(names) <= VERB_VALUES), (verb, names)


def test_verbs_of_later_versions_say_so(cli: Cli) -> None:
    for verb in sorted(LATER):
        cli(verb, code=2)
        assert "not part of this version yet" in cli.errors


def test_completion_scripts_are_valid_shell(cli: Cli) -> None:
    script = cli("completion", "bash")
    subprocess.run(["bash", "-n"], input=script.encode(), check=True)
    (cli.base / "a key").touch()
    for words, expected in (
        ("sna", ["snapshots"]),
        ("-r /x ba", ["backup"]),
        ("key r", ["remove", "rotate"]),
        ("key add --new-r", ["--new-recipient"]),
        ("restore --tag", []),
        ("backup --no-pr", ["--no-progress"]),
        ("restore latest --target a", ["a key"]),
    ):
        count = len(words.split())
        probe = (
            f'{script}\nCOMP_WORDS=(keyark {words}); COMP_CWORD={count}; _keyark; printf "%s\\n" "${{COMPREPLY[@]}}"'
        )
        done = subprocess.run(["bash"], input=probe, check=True, capture_output=True, text=True, cwd=cli.base)
        assert [line for line in done.stdout.splitlines() if line] == expected
    if shutil.which("zsh"):
        subprocess.run(["zsh", "-n"], input=cli("completion", "zsh").encode(), check=True)
    fish = cli("completion", "fish")
    assert "-a rotate" in fish or "remove rotate" in fish
    if shutil.which("fish"):
        subprocess.run(["fish", "-n"], input=fish.encode(), check=True)


def test_names_with_escape_sequences_never_reach_the_terminal(stocked: Cli, tmp_path: Path) -> None:
    (tmp_path / "source/evil\x1b[2J\n").write_bytes(b"x")
    stocked("backup", str(tmp_path / "source"))
    text = stocked.read("ls", "latest") + stocked.read("find", "evil*")
    assert "\x1b" not in text
    assert "evil\\x1b[2J\\n" in text


def test_a_terminal_gets_progress_and_colour_and_a_pipe_does_not(stocked: Cli, tmp_path: Path) -> None:
    fill(tmp_path / "source", {f"{number}": os.urandom(200_000) for number in range(100)})
    command = ["-r", stocked.location, "backup", str(tmp_path / "source")]
    assert b"\r" not in keyark(*command, home=stocked.home).stderr
    fill(tmp_path / "source", {f"{number}": os.urandom(200_000) for number in range(100)})
    shown = _on_terminal(command, stocked.home)
    assert b"files" in shown
    assert b"\r\x1b[K" in shown
    verify = ["-r", stocked.location, "--key-file", stocked.key, "verify"]
    assert b"\x1b[32m" in _on_terminal(verify, stocked.home)
    assert b"\x1b[32m" not in _on_terminal(verify, stocked.home, NO_COLOR="1")


def _on_terminal(
    arguments: list[str], home: Path, typed: Sequence[str] = (), code: int = 0, **environment: str
) -> bytes:
    master, slave = pty.openpty()
    env = {"PATH": os.environ["PATH"], "HOME": str(home), "LANG": "C.UTF-8", "TERM": "xterm", **environment}
    process = subprocess.Popen(
        [sys.executable, "-m", "keyark.cli.main", *arguments], stdin=slave, stdout=slave, stderr=slave, env=env
    )
    os.close(slave)
    shown = b""
    questions = list(typed)
    while True:
        if questions and shown.rstrip(b" ").endswith(b":"):
            shown += b"\n"
            answer = questions.pop(0)
            if answer == "^C":
                process.send_signal(signal.SIGINT)
            else:
                os.write(master, answer.encode() + b"\n")
        ready, _, _ = select.select([master], [], [], 60)
        try:
            data = os.read(master, 65536) if ready else b""
        except OSError:
            data = b""
        if not data:
            break
        shown += data
    os.close(master)
    assert process.wait(timeout=60) == code, shown
    return shown


def test_any_locale_and_any_standard_stream_will_do(stocked: Cli, tmp_path: Path) -> None:
    fill(tmp_path / "source", {"schlüssel": b"x"})
    stocked("backup", str(tmp_path / "source"))
    environment = {"PYTHONIOENCODING": "ascii", "LC_ALL": "POSIX", "PYTHONCOERCECLOCALE": "0", "PYTHONUTF8": "0"}
    assert "schl\\xfcssel" in stocked.read("ls", "latest", **environment)
    nodes = [json.loads(line) for line in stocked.read("ls", "latest", "--json", **environment).splitlines()]
    assert "schlüssel" in [node["name"] for node in nodes]
    command = f"{sys.executable} -m keyark.cli.main -r {stocked.location} --key-file {stocked.key} ls latest"
    for redirection, code in ((">&-", 0), ("2>&-", 0), ("<&-", 0), (">/dev/full", 1), (">/dev/full --json", 1)):
        done = subprocess.run(
            ["bash", "-c", f"{command} {redirection}"],
            capture_output=True,
            text=True,
            check=False,
            env={"PATH": os.environ["PATH"], "HOME": str(stocked.home)},
        )
        lines = done.stderr.splitlines()
        assert done.returncode == code, redirection
        assert len(lines) == (1 if "full" in redirection else 0), done.stderr


def test_a_question_for_a_passphrase_is_asked_on_a_terminal_and_can_be_interrupted(cli: Cli, tmp_path: Path) -> None:
    location = ["-r", cli.location]
    cli("init", "--recovery-passphrase", "--i-accept-a-single-key", code=2)
    assert "--recovery-passphrase-file" in cli.errors
    shown = _on_terminal(
        [*location, "init", "--new-password", "--i-accept-a-single-key"], cli.home, typed=["open sesame"] * 2
    )
    assert b"repository created" in shown
    assert b"sesame" not in shown
    cli("backup", "/etc/hostname")
    # This machine's own credential reads nothing, so the question is asked here too.
    assert b"1 snapshot" in _on_terminal([*location, "snapshots"], cli.home, typed=["open sesame"])
    assert b"none of the given keys" in _on_terminal([*location, "snapshots"], cli.home, typed=["wrong"], code=12)
    assert b"interrupted" in _on_terminal([*location, "snapshots"], cli.home, typed=["^C"], code=130)
    differ = [*location, "--password-command", "echo open sesame", "key", "add", "--new-password"]
    assert b"differ" in _on_terminal(differ, cli.home, typed=["one", "two"], code=2)


def test_a_stray_passphrase_is_not_repeated(cli: Cli) -> None:
    cli("init", "--recovery-passphrase", "hunter2", code=2)
    assert "hunter2" not in cli.errors
    assert "never taken from the command line" in cli.errors


@pytest.mark.program("openssl")
def test_doctor_writes_the_file_that_the_documented_openssl_line_opens(stocked: Cli, tmp_path: Path) -> None:
    (tmp_path / "backup_master.key").write_bytes(Path(stocked.key).read_bytes())
    (tmp_path / "backup_master.key").chmod(0o600)
    text = stocked("--key-file", str(tmp_path / "backup_master.key"), "doctor")
    assert "test.enc" in text
    line = "openssl enc -aes-256-cbc -d -in test.enc -out test.dec -pass file:backup_master.key"
    subprocess.run(line.split(), cwd=tmp_path, check=True, capture_output=True)
    assert b"openssl alone" in (tmp_path / "test.dec").read_bytes()


def test_a_repository_is_not_copied_onto_itself(stocked: Cli, tmp_path: Path) -> None:
    stocked("copy", stocked.location, code=2)
    assert "the repository itself" in stocked.errors
    stocked("copy", str(tmp_path / "second"))


def test_debug_adds_the_traceback(stocked: Cli) -> None:
    done = keyark("-r", stocked.location, "--key-file", stocked.key, "--debug", "ls", "nope", home=stocked.home)
    assert done.returncode == 16
    assert b"Traceback" in done.stderr


def test_a_reader_that_goes_away_is_no_traceback(stocked: Cli) -> None:
    shell = f"{sys.executable} -m keyark.cli.main -r {stocked.location} --key-file {stocked.key} ls latest | true"
    env = {"PATH": os.environ["PATH"], "HOME": str(stocked.home)}
    done = subprocess.run(["bash", "-c", shell], capture_output=True, check=False, env=env)
    assert b"Traceback" not in done.stderr


def test_secrets_never_appear_in_output_or_process_arguments(cli: Cli, tmp_path: Path) -> None:
    (tmp_path / "p").write_text("unmistakable passphrase\n")
    (tmp_path / "p").chmod(0o600)
    shown = cli("init", "--new-password-file", str(tmp_path / "p"), "--i-accept-a-single-key", "-v")
    shown += cli("backup", "/etc/hostname", "-v") + cli.errors
    shown += cli("--password-file", str(tmp_path / "p"), "doctor", "--json") + cli.errors
    assert "unmistakable" not in shown


def test_sandbox_and_command_line_agree(stocked: Cli, tmp_path: Path) -> None:
    from keyark.crypto.slots import read_key_file

    sandbox = Sandbox(tmp_path, line=read_key_file(stocked.key)[0])
    assert sandbox.restore("first", tmp_path / "out").name == "first"
