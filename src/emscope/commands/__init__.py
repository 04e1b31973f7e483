"""One small file per command: a dataclass, its help, and a call into the library."""
