"""Every error Keyark raises, each with a stable exit code.

::

    KeyarkError                 1    failed
    ├── UsageError              2    bad usage: option, configuration, input
    ├── RepositoryNotFound     10    no repository there
    ├── ConflictError          11    repository locked, or changed under our feet too often
    ├── NoKeyError             12    no key that opens it
    ├── IntegrityError         13    damaged or forged data
    │   ├── DamagedError             bytes are not what was written
    │   ├── ForgedError              a signature, standing or binding is wrong
    │   └── HistoryError             rollback, fork, gap or clone
    ├── StorageError           14    storage unreachable or failing
    │   ├── StorageFull              no space, no inodes, quota
    │   ├── StorageDenied            the storage refuses us
    │   ├── ObjectNotFound           (inside the program: callers name what was missing)
    │   └── ObjectExists             (inside the program: create-only put lost)
    ├── NotAllowedError        15    the credential at hand may not do this
    ├── NotFoundError          16    no such snapshot or path
    └── InterruptedByUser     130    Ctrl-C, SIGTERM

A message is one line: what happened, to what, and what to do next. An error never prints and never exits; foreign
errors are wrapped at the boundary with ``raise ... from e``.
"""

from __future__ import annotations


class KeyarkError(Exception):
    """Root of all errors that Keyark raises on purpose."""

    exit_code = 1


class UsageError(KeyarkError):
    """The caller asked for something that makes no sense or gave bad input."""

    exit_code = 2


class RepositoryNotFound(KeyarkError):
    """There is no repository at the location."""

    exit_code = 10


class ConflictError(KeyarkError):
    """Another process holds, or keeps changing, what we need."""

    exit_code = 11


class NoKeyError(KeyarkError):
    """None of the given passwords, keys or credentials opens what was asked for."""

    exit_code = 12


class IntegrityError(KeyarkError):
    """Stored data is damaged, forged or has gone back in time."""

    exit_code = 13


class DamagedError(IntegrityError):
    """An object's bytes are not what was written."""


class ForgedError(IntegrityError):
    """A signature, a signer's standing or an object's binding to its place is wrong."""


class HistoryError(IntegrityError):
    """Keyring or snapshot history was rolled back, forked, cloned or has an unexplained gap."""


class StorageError(KeyarkError):
    """The storage cannot be reached or failed."""

    exit_code = 14


class StorageFull(StorageError):
    """The storage has no room left (bytes, inodes or quota)."""


class StorageDenied(StorageError):
    """The storage refuses the operation."""


class ObjectNotFound(StorageError):
    """The named object does not exist."""


class ObjectExists(StorageError):
    """A create-only put found an object of that name."""


class NotAllowedError(KeyarkError):
    """The credential at hand does not permit the operation."""

    exit_code = 15


class NotFoundError(KeyarkError):
    """No such snapshot, or no such path in it."""

    exit_code = 16


class InterruptedByUser(KeyarkError):
    """Stopped by the user or by a signal."""

    exit_code = 130
