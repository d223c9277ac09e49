"""How many files this process may hold open: a walk holds one for each level of a tree."""

from __future__ import annotations

import resource

_ENOUGH = 65_536


def raise_limit() -> None:
    """Raise the soft limit of open files as far as the hard one goes, but not beyond all sense."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = _ENOUGH if hard == resource.RLIM_INFINITY else min(hard, _ENOUGH)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
