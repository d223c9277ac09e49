"""The repository: a content-addressed, encrypted, signed store with history (docs/format.md)."""
