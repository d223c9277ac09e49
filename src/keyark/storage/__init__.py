"""Where objects lie: the Storage protocol, its drivers and decorators."""
