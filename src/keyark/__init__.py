"""Keyark: encrypted, deduplicating backups of keys and secrets that the backing-up machine cannot read."""

__version__ = "0.1.0"
