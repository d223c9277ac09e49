#!/usr/bin/env bash
# Lists and restores backups: ./backup_restore.sh list, ./backup_restore.sh restore BACKUP
set -euo pipefail
folder=$(cd "$(dirname "$(readlink -f "${BASH_SOURCE[0]}")")" && pwd)
# shellcheck source=scripts/bootstrap.sh
. "$folder/scripts/bootstrap.sh"
keyark_bootstrap "$folder"
exec "$KEYARK_PYTHON" -m keyark.cli.frontdoor restore "$folder" "$@"
