# shellcheck shell=bash
# Sourced by the front doors: makes the private environment beside them on first use and brings it up to date later.
# Sets KEYARK_PYTHON. Two first uses at once wait for each other.

keyark_fail() {
    printf 'keyark: %s\n' "$1" >&2
    exit 1
}

# The interpreter to use; says what is missing and ends when there is none that can make environments.
keyark_find_python() {
    local candidate found=
    for candidate in "${PYTHON:-}" python3 python3.13 python3.12 python3.11; do
        [ -n "$candidate" ] || continue
        command -v "$candidate" >/dev/null 2>&1 || continue
        "$candidate" -c 'import sys; sys.exit(sys.version_info < (3, 11))' >/dev/null 2>&1 || continue
        found=$candidate
        # ensurepip is asked for something it has: its empty folder can be imported too.
        if "$candidate" -c 'import venv, ensurepip; ensurepip.version()' >/dev/null 2>&1; then
            printf '%s\n' "$candidate"
            return
        fi
    done
    [ -n "$found" ] || keyark_fail "Python 3.11 or newer is missing; install it: apt-get install python3 python3-venv"
    keyark_fail "python3-venv is missing; install it: apt-get install python3-venv"
}

# Whether the environment is there, made for the Python it runs on, and newer than everything it was made from.
keyark_is_current() {
    [ -e "$1/.keyark/installed" ] \
        && "$KEYARK_PYTHON" -c 'import sys, importlib.util as u; sys.exit(not u.find_spec("keyark"))' 2>/dev/null \
        && [ -z "$(find "$1/src" "$1/backup_manager.py" "$1/pyproject.toml" "$1/requirements.lock" \
            -newer "$1/.keyark/installed" ! -path '*/__pycache__*' -print -quit)" ]
}

# A step of the installation; when it fails, what it said last.
keyark_step() {
    local log=$1 what=$2 said
    shift 2
    "$@" >>"$log" 2>&1 && return
    said=$(grep -v '^ *$' "$log" 2>/dev/null | tail -n 1 | cut -c 1-300 || true)
    keyark_fail "$what${said:+: $said}; all of it is in $log"
}

keyark_install() {
    local folder=$1 log=$1/.keyark/bootstrap.log python
    local -a pip
    python=$(keyark_find_python) || exit 1
    printf 'keyark: preparing its private environment in %s (only the first time)\n' "$folder/.keyark/venv" >&2
    rm -f "$folder/.keyark/installed"
    : 2>/dev/null >"$log" || keyark_fail "cannot write $log; is the disk full?"
    pip=("$KEYARK_PYTHON" -m pip install --disable-pip-version-check --no-cache-dir --quiet)
    keyark_step "$log" "cannot make the environment" "$python" -m venv --clear "$folder/.keyark/venv"
    keyark_step "$log" "cannot install the libraries (is the network reachable?)" \
        "${pip[@]}" -r "$folder/requirements.lock"
    keyark_step "$log" "cannot install Keyark" "${pip[@]}" --no-deps "$folder"
    touch "$folder/.keyark/installed"
}

keyark_bootstrap() {
    local folder=$1 own=$1/.keyark
    umask 077
    export KEYARK_PYTHON=$own/venv/bin/python
    if ! mkdir -p "$own" 2>/dev/null || [ ! -w "$own" ] || [ ! -w "$folder" ]; then
        keyark_fail "$(id -un) cannot write in $folder (it belongs to $(stat -c %U "$folder")); use a clone of your own"
    fi
    command -v flock >/dev/null 2>&1 || keyark_fail "flock is missing; install it: apt-get install util-linux"
    exec 9>"$own/bootstrap.lock"
    flock 9
    keyark_is_current "$folder" || keyark_install "$folder"
    exec 9>&-
}
