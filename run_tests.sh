#!/usr/bin/env bash
# Installs what the tests need (Debian packages too, when it may) and runs all checks: ./run_tests.sh [pytest arguments]
set -euo pipefail
folder=$(cd "$(dirname "$(readlink -f "${BASH_SOURCE[0]}")")" && pwd)
cd "$folder"
# shellcheck source=scripts/bootstrap.sh
. scripts/bootstrap.sh

packages=(acl age attr default-jre-headless e2fsprogs git mount openssl openssh-client gnupg python3-venv rsync strace util-linux zstd)
missing=()
for package in "${packages[@]}"; do
    if [ "$(dpkg-query -W -f='${db:Status-Status}' "$package" 2>/dev/null)" != installed ]; then
        missing+=("$package")
    fi
done
if [ ${#missing[@]} -gt 0 ]; then
    if command -v apt-get >/dev/null && [ "$(id -u)" = 0 ]; then
        export DEBIAN_FRONTEND=noninteractive
        printf 'installing: %s\n' "${missing[*]}"
        apt-get update -qq
        apt-get install -y -qq --no-install-recommends "${missing[@]}" >/dev/null
    else
        printf 'not installed: %s; tests that need them are skipped. As root: apt-get install %s\n' \
            "${missing[*]}" "${missing[*]}" >&2
    fi
fi

python=$(keyark_find_python) || exit 1
test_python=$folder/.keyark/testvenv/bin/python
mkdir -p .keyark
if [ ! -x "$test_python" ]; then
    "$python" -m venv .keyark/testvenv
fi
"$test_python" -m pip install --disable-pip-version-check --quiet -r requirements-dev.lock
"$test_python" -m pip install --disable-pip-version-check --quiet --no-deps -e .
export PATH=$folder/.keyark/testvenv/bin:$PATH

ruff check .
ruff format --check .
mypy
lint-imports
python -m pytest -n auto --dist worksteal --cov --cov-report=term:skip-covered --cov-report=xml:.keyark/coverage.xml "$@"
