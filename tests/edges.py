"""Figures with holes in them: what a section must stand."""

ENDS = ("low", "high")


def without(found, *keys):
    """Return a copy of figures in which every number under one of the keys is missing, lists of numbers by element."""
    if isinstance(found, dict):
        return {key: _hole(item) if key in keys else without(item, *keys) for key, item in found.items()}
    return [without(item, *keys) for item in found] if isinstance(found, list) else found


def _hole(item):
    if isinstance(item, dict):
        return {key: _hole(value) for key, value in item.items()}
    if isinstance(item, list):
        return [_hole(value) for value in item]
    return None if isinstance(item, (int, float)) and not isinstance(item, bool) else item
