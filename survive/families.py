"""The families of faults, by name: how each plans its tasks, and how it tells what came of them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from survive.absent_judge import plan_absent_judge
from survive.bench import Bench, tell_cases
from survive.clocks import plan_clocks
from survive.disk import plan_disk
from survive.kills import plan_kills, tell_kills
from survive.memory import plan_memory
from survive.on_ray import plan_faults as plan_ray_faults
from survive.on_ray import plan_kills as plan_ray_kills
from survive.on_ray import tell_on_ray
from survive.places import plan_places
from survive.stops import plan_stops
from survive.together import plan_together
from survive.workers import Task


@dataclass(frozen=True)
class Family:
    """A family of faults.

    Attributes:
        plan: returns its tasks; the names of settings that are asked for, none for all.
        tell: returns its figures from what the tasks returned.
    """

    plan: Callable[[Bench, Sequence[str]], list[Task]]
    tell: Callable[[Bench, Sequence[Any]], dict[str, Any]] = tell_cases


FAMILIES = {
    "kills": Family(plan_kills, tell_kills),
    "disk": Family(plan_disk),
    "memory": Family(plan_memory),
    "clocks": Family(plan_clocks),
    "together": Family(plan_together),
    "places": Family(plan_places),
    "stops": Family(plan_stops),
    "judge": Family(plan_absent_judge),
    "ray-kills": Family(plan_ray_kills, tell_on_ray),
    "ray-faults": Family(plan_ray_faults, tell_on_ray),
}
