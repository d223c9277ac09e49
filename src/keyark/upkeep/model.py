"""What the upkeep operations are asked for and what they report."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class VerifyRequest:
    """Check a repository. ``read_data_subset`` is ``5%``, ``n/m`` or ``500M``; it implies reading data of that part."""

    read_data: bool = False
    read_data_subset: str | None = None
    repair_index: bool = False


@dataclass(frozen=True, slots=True)
class Finding:
    """Something wrong, or worth a notice, about one object."""

    object: str  # the object's name in the repository
    what: str
    fatal: bool  # False: a notice, such as garbage left by a crash
    snapshots: tuple[str, ...] = ()  # ids of snapshots it touches
    files: tuple[bytes, ...] = ()  # paths it touches, when a content key is at hand (at most 1000)


@dataclass(frozen=True, slots=True)
class VerifyReport:
    """The outcome of a verification."""

    findings: tuple[Finding, ...]
    snapshots: int
    packs: int
    packs_read: int
    bytes_read: int
    files_checked: int
    content_checked: bool
    index_repaired: bool
    total_duration: float

    @property
    def sound(self) -> bool:
        """False means exit code 13."""
        return not any(finding.fatal for finding in self.findings)


@dataclass(frozen=True, slots=True)
class ForgetRequest:
    """Which snapshots to keep. ``within`` is a duration such as ``1y5m7d2h``. ``snapshots`` names some to forget at once."""

    keep_last: int = 0
    keep_hourly: int = 0
    keep_daily: int = 0
    keep_weekly: int = 0
    keep_monthly: int = 0
    keep_yearly: int = 0
    keep_within: str | None = None
    retention_days: int | None = None
    max_backups: int | None = None
    snapshots: tuple[str, ...] = ()
    dry_run: bool = False
    prune: bool = False
    accept_rate: bool = False
    acknowledge_loss: bool = False  # write tombstones for snapshots that are missing without one


@dataclass(frozen=True, slots=True)
class ForgetDecision:
    """What happens to one snapshot, and why."""

    snapshot: str
    name: str | None
    time_ns: int
    keep: bool
    reasons: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class PruneReport:
    """What a prune did (or would do)."""

    packs_marked: int
    packs_deleted: int
    bytes_freed: int
    packs_kept: int
    packs_thin: int
    objects_deleted: int  # indexes, forgotten snapshots, old marks, what interrupted puts left
    waiting: int  # unlisted packs too young to touch: perhaps of a backup under way
    dry_run: bool = False


@dataclass(frozen=True, slots=True)
class ForgetReport:
    """What forget decided and did."""

    decisions: tuple[ForgetDecision, ...]
    removed: int
    dry_run: bool
    prune: PruneReport | None = None


@dataclass(frozen=True, slots=True)
class PruneRequest:
    """Reclaim space. ``grace_seconds``: how long an unlisted pack of no known snapshot is left alone."""

    dry_run: bool = False
    grace_seconds: int = 24 * 3600
    max_unused: float = 0.25  # a pack less used than this share is thin


@dataclass(frozen=True, slots=True)
class SlotInfo:
    """One way of opening the repository."""

    id: str
    kind: str
    label: str | None  # None: the listing key is not at hand
    admin: bool
    post_quantum: bool
    created_ns: int
    strength: str  # "Argon2id, 64 MiB, 3 passes", "256-bit key file", ...
    warning: str | None
    opened: bool  # by the credentials of this run


@dataclass(frozen=True, slots=True)
class WriterInfo:
    """One writer or operator."""

    id: str
    role: str  # "writer" or "operator"
    label: str | None
    compartment: str | None
    revoked: bool
    created_ns: int
    post_quantum_signature: bool
    last_sequence: int | None  # a writer's newest snapshot


@dataclass(frozen=True, slots=True)
class CredentialReport:
    """A credential that was just made."""

    id: str
    role: str
    name: str
    compartment: str | None
    path: str


@dataclass(frozen=True, slots=True)
class Check:
    """One line of ``doctor``. ``status`` is ok, warning or failed."""

    name: str
    status: str
    detail: str
    advice: str = ""


@dataclass(frozen=True, slots=True)
class DoctorReport:
    """The installation's state of health."""

    checks: tuple[Check, ...]

    @property
    def healthy(self) -> bool:
        return all(check.status != "failed" for check in self.checks)


@dataclass(frozen=True, slots=True)
class ResealReport:
    """What a re-sealing did. The packs that it superseded go with the next `prune`."""

    packs: int
    bytes: int  # stored anew
    superseded: int  # packs that are still there and that nothing needs any more
