"""keyark completion"""

from __future__ import annotations

import importlib
from typing import Annotated

import typer

from keyark.cli.command import command_of, examples, new_app, session_of
from keyark.cli.globals import OPTIONS
from keyark.cli.main import ALIASES, VERBS
from keyark.errors import UsageError

app = new_app()

_BASH = """\
_keyark() {{
    local current="${{COMP_WORDS[COMP_CWORD]}}" before="${{COMP_WORDS[COMP_CWORD-1]}}"
    local verb="" sub="" skip="" word options="" words=""
    for word in "${{COMP_WORDS[@]:1:$((COMP_CWORD-1))}}"; do
        if [[ -n "$skip" ]]; then skip=""; continue; fi
        case "$word" in
            {values}) skip=1 ;;
            -*) ;;
            *) if [[ -z "$verb" ]]; then verb="$word"; elif [[ -z "$sub" ]]; then sub="$word"; fi ;;
        esac
    done
    COMPREPLY=()
    if [[ "$current" == -* ]]; then
        case "$verb $sub" in
{cases}
        esac
        COMPREPLY=($(compgen -W "$options {globals}" -- "$current"))
        return
    fi
    case "$before" in {plain}) return ;; esac
    if [[ -z "$skip" ]]; then
        case "$verb/$sub" in
            /) words="{verbs}" ;;
{groups}
            completion/) words="bash zsh fish" ;;
        esac
    fi
    if [[ -n "$words" ]]; then
        COMPREPLY=($(compgen -W "$words" -- "$current"))
    else
        local IFS=$'\\n'
        compopt -o filenames 2>/dev/null
        COMPREPLY=($(compgen -f -- "$current"))
    fi
}}
complete -F _keyark keyark
"""
_ZSH = "autoload -Uz bashcompinit && bashcompinit\n"


@app.command(
    epilog=examples("""
keyark completion bash > /etc/bash_completion.d/keyark
eval "$(keyark completion zsh)"
keyark completion fish > ~/.config/fish/completions/keyark.fish""")
)
def completion(
    context: typer.Context, shell: Annotated[str, typer.Argument(metavar="SHELL", help="bash, zsh or fish")]
) -> int:
    """Print a shell completion script."""
    session = session_of(context)
    if shell not in ("bash", "zsh", "fish"):
        raise UsageError(f"there is no completion for {shell!r}; use bash, zsh or fish")
    script = _fish() if shell == "fish" else (_ZSH if shell == "zsh" else "") + _bash()
    if session.output.as_json:
        session.output.json({"shell": shell, "script": script})
    else:
        session.output.print(script.rstrip())
    return 0


_Option = tuple[list[str], bool, bool, str]  # its names, takes a value, the value is a path, help


def _options() -> dict[str, list[_Option]]:
    """The options of each verb; of a verb with verbs of its own, as ``key add``."""
    found: dict[str, list[_Option]] = {}
    for verb, (module, _) in VERBS.items():
        command = command_of(importlib.import_module(f"keyark.cli.verbs.{module}").app)
        for name, each in {"": command, **getattr(command, "commands", {})}.items():
            found[f"{verb} {name}"] = [
                (parameter.opts, not parameter.is_flag, parameter.metavar in ("FILE", "DIR"), parameter.help or "")
                for parameter in each.params
                if parameter.param_type_name == "option" and not parameter.hidden
            ]
    for alias, verb in ALIASES.items():
        found[f"{alias} "] = found[f"{verb} "]
    return found


_PATHS = frozenset({"-r", "--repository", "--repo", "--password-file", "--key-file", "--identity", "--credential"}) | {
    "--config",
    "--cache-dir",
}


def _groups(options: dict[str, list[_Option]]) -> dict[str, str]:
    groups: dict[str, str] = {}
    for place in options:
        verb, _, name = place.partition(" ")
        if name:
            groups[verb] = f"{groups.get(verb, '')} {name}".strip()
    return groups


def _bash() -> str:
    options = _options()
    every = [option for found in options.values() for option in found]
    values = {name for names, takes, _, _ in every if takes for name in names}
    values |= {name for name, (_, takes) in OPTIONS.items() if takes}
    paths = {name for names, _, path, _ in every if path for name in names} | _PATHS
    cases = []
    for place, found in sorted(options.items(), key=lambda item: item[0].endswith(" ")):  # `key add` wins over `key`
        words = " ".join(name for names, *_ in found for name in names if name.startswith("--"))
        pattern = f'"{place}"*' if place.endswith(" ") else f'"{place}"'
        cases.append(f'            {pattern}) options="{words}" ;;')
    return _BASH.format(
        values="|".join(sorted(values)),
        plain="|".join(sorted(values - paths)),
        cases="\n".join(cases),
        globals=" ".join(sorted(name for name in OPTIONS if name.startswith("--"))),
        verbs=" ".join([*VERBS, *ALIASES]),
        groups="\n".join(f'            {verb}/) words="{names}" ;;' for verb, names in _groups(options).items()),
    )


def _fish() -> str:
    options = _options()
    lines = []
    for verb, (_, what) in VERBS.items():
        lines.append(f"complete -c keyark -f -n __fish_use_subcommand -a {verb} -d {_quoted(what)}")
    lines += [f"complete -c keyark -f -n __fish_use_subcommand -a {alias}" for alias in ALIASES]
    for verb, names in _groups(options).items():
        seen = f"__fish_seen_subcommand_from {verb}; and not __fish_seen_subcommand_from {names}"
        lines.append(f'complete -c keyark -f -n "{seen}" -a "{names}"')
    lines.append('complete -c keyark -f -n "__fish_seen_subcommand_from completion" -a "bash zsh fish"')
    for name, (_, takes) in OPTIONS.items():
        lines.append(_fish_option([name], takes=takes, path=name in _PATHS, what=""))
    for place, found in options.items():
        seen = "; and ".join(f"__fish_seen_subcommand_from {word}" for word in place.split())
        lines += [
            _fish_option(names, takes=takes, path=path, what=what, seen=seen) for names, takes, path, what in found
        ]
    return "\n".join(lines)


def _fish_option(names: list[str], *, takes: bool, path: bool, what: str, seen: str = "") -> str:
    parts = ["complete -c keyark"]
    if seen:
        parts.append(f'-n "{seen}"')
    parts += [f"-l {name[2:]}" if name.startswith("--") else f"-s {name[1:]}" for name in names]
    if takes:
        parts.append("-r -F" if path else "-x")
    if what:
        parts.append(f"-d {_quoted(what)}")
    return " ".join(parts)


def _quoted(text: str) -> str:
    escaped = text.replace("\\", "\\\\").replace("'", "\\'")
    return f"'{escaped}'"
