"""keyark completion"""

from __future__ import annotations

from typing import Annotated

import typer

from keyark.cli.command import examples, new_app, session_of
from keyark.cli.globals import OPTIONS, VERB_VALUES
from keyark.cli.main import ALIASES, VERBS
from keyark.errors import UsageError

app = new_app()

_BASH = """\
_keyark() {{
    local current="${{COMP_WORDS[COMP_CWORD]}}"
    local verb="" word
    for word in "${{COMP_WORDS[@]:1:COMP_CWORD-1}}"; do
        case " {verbs} " in *" $word "*) verb="$word"; break ;; esac
    done
    if [[ "$current" == -* ]]; then
        COMPREPLY=($(compgen -W "{options}" -- "$current"))
    elif [[ -z "$verb" ]]; then
        COMPREPLY=($(compgen -W "{verbs}" -- "$current"))
    elif [[ "$verb" == key ]]; then
        COMPREPLY=($(compgen -W "list add remove rotate" -- "$current"))
    elif [[ "$verb" == writer ]]; then
        COMPREPLY=($(compgen -W "list add revoke" -- "$current"))
    else
        COMPREPLY=($(compgen -f -- "$current"))
    fi
}}
complete -o filenames -F _keyark keyark
"""
_ZSH = "autoload -Uz bashcompinit && bashcompinit\n"
_FISH = """\
complete -c keyark -f -n __fish_use_subcommand -a "{verbs}"
complete -c keyark -F -n "not __fish_use_subcommand"
complete -c keyark -f -n "__fish_seen_subcommand_from key" -a "list add remove rotate"
complete -c keyark -f -n "__fish_seen_subcommand_from writer" -a "list add revoke"
"""


@app.command(
    epilog=examples("""
keyark completion bash > /etc/bash_completion.d/keyark
eval "$(keyark completion zsh)" """)
)
def completion(
    context: typer.Context, shell: Annotated[str, typer.Argument(metavar="SHELL", help="bash, zsh or fish")]
) -> int:
    """Print a shell completion script."""
    session = session_of(context)
    verbs = " ".join([*VERBS, *ALIASES])
    options = " ".join(sorted(option for option in {*OPTIONS, *VERB_VALUES} if option.startswith("--")))
    script = _BASH.format(verbs=verbs, options=options)
    if shell == "zsh":
        script = _ZSH + script
    elif shell == "fish":
        script = _FISH.format(verbs=verbs)
    elif shell != "bash":
        raise UsageError(f"there is no completion for {shell!r}; use bash, zsh or fish")
    session.output.print(script.rstrip())
    return 0
