"""Stops in the middle of work: what was finished by then must be used again, and nothing may come out otherwise."""

import contextlib
import json

from emscope import parts

TIMES = ("seconds",)


class Stopper:
    """Raises KeyboardInterrupt right after a number of parts were written; counts them over all starts."""

    def __init__(self, patch):
        self.written, self.stop_at = 0, None
        patch.setattr(parts, "SAVED_EVERY", 0.0)
        real = parts.Store.write

        def write(store, file, part):
            real(store, file, part)
            self.written += 1
            if self.written == self.stop_at:
                raise KeyboardInterrupt

        patch.setattr(parts.Store, "write", write)

    @contextlib.contextmanager
    def stops_after(self, n):
        """Expect a stop after `n` parts more."""
        self.stop_at = self.written + n
        try:
            yield
        except KeyboardInterrupt:
            return
        finally:
            self.stop_at = None
        raise AssertionError(f"there was no part {n}")


def bytes_of(folder):
    """Return the bytes of every file in a folder by its name, JSON without the times it holds."""
    return {
        str(path.relative_to(folder)): _bytes(path)
        for path in sorted(folder.rglob("*"))
        if path.is_file() and not any(part.startswith(".") for part in path.relative_to(folder).parts)
    }


def _bytes(path):
    return json.dumps(_timeless(json.loads(path.read_text()))) if path.suffix == ".json" else path.read_bytes()


def _timeless(value):
    if isinstance(value, dict):
        return {key: _timeless(item) for key, item in value.items() if key not in TIMES}
    return [_timeless(item) for item in value] if isinstance(value, list) else value
