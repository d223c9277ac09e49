# Sourced by the front doors: makes the private environment beside them on first use and brings it up to date later.
# Sets KEYARK_PYTHON. Two first uses at once wait for each other.

keyark_fail() {
    printf 'keyark: %s\n' "$1" >&2
    exit 1
}

keyark_find_python() {
    local candidate
    for candidate in "${PYTHON:-}" python3 python3.13 python3.12 python3.11; do
        [ -n "$candidate" ] || continue
        if command -v "$candidate" >/dev/null 2>&1 \
            && "$candidate" -c 'import sys; sys.exit(sys.version_info < (3, 11))' >/dev/null 2>&1; then
            printf '%s\n' "$candidate"
            return
        fi
    done
    return 1
}

keyark_bootstrap() {
    local folder=$1 own=$1/.keyark python stamp
    umask 077
    export KEYARK_PYTHON=$own/venv/bin/python
    stamp=$own/installed
    mkdir -p "$own" || keyark_fail "cannot make $own; is the folder writable?"
    command -v flock >/dev/null 2>&1 || keyark_fail "flock is missing; install it: apt-get install util-linux"
    exec 9>"$own/bootstrap.lock"
    flock 9
    if [ ! -e "$stamp" ] || [ ! -x "$KEYARK_PYTHON" ] \
        || [ -n "$(find "$folder/src" "$folder/backup_manager.py" "$folder/pyproject.toml" "$folder/requirements.lock" \
            -newer "$stamp" ! -path '*/__pycache__*' -print -quit)" ]; then
        python=$(keyark_find_python) || keyark_fail "Python 3.11 or newer is missing; install it: apt-get install python3"
        "$python" -c 'import venv, ensurepip' >/dev/null 2>&1 \
            || keyark_fail "python3-venv is missing; install it: apt-get install python3-venv"
        printf 'keyark: preparing its private environment in %s (only the first time)\n' "$own/venv" >&2
        rm -f "$stamp"
        "$python" -m venv --clear "$own/venv" >"$own/bootstrap.log" 2>&1 \
            || keyark_fail "cannot make the environment; see $own/bootstrap.log"
        "$KEYARK_PYTHON" -m pip install --disable-pip-version-check --no-cache-dir --quiet \
            -r "$folder/requirements.lock" >>"$own/bootstrap.log" 2>&1 \
            || keyark_fail "cannot install the libraries (is the network reachable?); see $own/bootstrap.log"
        "$KEYARK_PYTHON" -m pip install --disable-pip-version-check --no-cache-dir --quiet --no-deps \
            "$folder" >>"$own/bootstrap.log" 2>&1 \
            || keyark_fail "cannot install Keyark; see $own/bootstrap.log"
        touch "$stamp"
    fi
    exec 9>&-
}
