"""The documented Python front door: ``from backup_manager import BackupManager``.

It works from an environment that has Keyark installed, and from a checkout in which ``./backup_automation.sh`` has run once.
"""

from __future__ import annotations

import glob
import os
import sys

try:
    import keyark  # noqa: F401 - asked whether it is there
except ModuleNotFoundError:
    _here = os.path.dirname(os.path.abspath(__file__))
    _version = f"python{sys.version_info.major}.{sys.version_info.minor}"
    _found = glob.glob(os.path.join(_here, ".keyark", "venv", "lib", _version, "site-packages"))
    if not _found:
        raise ImportError("Keyark is not installed; run ./backup_automation.sh once, or `pip install .`") from None
    sys.path[:0] = _found

from keyark.api import BackupInfo, BackupManager, BackupResult, RestoreReport

__all__ = ["BackupInfo", "BackupManager", "BackupResult", "RestoreReport"]
