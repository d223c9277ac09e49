#!/usr/bin/env bash
# Backs up this host's keys and secrets: ./backup_automation.sh backup [PATH...]
set -euo pipefail
folder=$(cd "$(dirname "$(readlink -f "${BASH_SOURCE[0]}")")" && pwd)
# shellcheck source=scripts/bootstrap.sh
. "$folder/scripts/bootstrap.sh"
keyark_bootstrap "$folder"
exec "$KEYARK_PYTHON" -m keyark.cli.frontdoor automation "$folder" "$@"
