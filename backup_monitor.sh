#!/usr/bin/env bash
# Monitoring: ./backup_monitor.sh start|stop|status|check|alerts
set -euo pipefail
folder=$(cd "$(dirname "$(readlink -f "${BASH_SOURCE[0]}")")" && pwd)
# shellcheck source=scripts/bootstrap.sh
. "$folder/scripts/bootstrap.sh"
keyark_bootstrap "$folder"
exec "$KEYARK_PYTHON" -m keyark.cli.frontdoor monitor "$folder" "$@"
