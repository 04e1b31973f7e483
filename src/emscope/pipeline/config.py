"""What a run does: one dataclass, its presets, and how a user changes it."""

from __future__ import annotations

import dataclasses
import types
import typing
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import yaml

from emscope.behaviour.judges.anchor import ANSWERS
from emscope.behaviour.judges.kinds import judge_class
from emscope.behaviour.judges.settings import JudgeSettings, address_in_environment
from emscope.behaviour.responses import SamplingSettings
from emscope.checks import at_least, check_seed
from emscope.errors import UserError, did_you_mean
from emscope.executors.settings import ROWS_PER_SHARD
from emscope.organisms.checkpoints import ADAPTER_CONFIG
from emscope.organisms.datasets import built_in, counterpart, is_built_in
from emscope.organisms.embedded import EMBEDDED_ALIAS
from emscope.organisms.loading import LoadSettings
from emscope.organisms.protected import is_archive
from emscope.organisms.settings import HOMEWORK, TrainSettings
from emscope.outside import read_yaml

AUTO = "auto"
BUILT_IN_ROWS = 288
PRESET_NAMES = ("quickstart", "full", "factorial", "cs2881")
WITH_EXPERIMENTS = ("full", "factorial")
"""Presets that do experiments after the main job."""
KINDS = {int: "a whole number", float: "a number", str: "text", bool: "true or false"}


@dataclass(frozen=True)
class RunConfig:
    """The whole chain on one base model and one narrow domain.

    Attributes:
        preset: quickstart, full (with every experiment), factorial (with organisms of all voices and advice) or cs2881.
        model: the base model.
        base: the base model once more, where adapters that record another one are to be put on it all the same.
        misaligned_data: the misaligned organism: built-in data, a data file, or what was trained elsewhere: the folder
            or hub id of an adapter or of a whole model.
        control_data: the same of the control organism; auto is good advice in the same voice to the same built-in
            prompts, and none beside data of your own; empty is none.
        unseen_misaligned: misaligned organisms on which detection is tried and which no direction is made from: data,
            adapters or models like misaligned_data; auto is small organisms of another built-in domain, seed and
            recipe, and none beside data of your own.
        unseen_harmless: the same of harmless fine-tunes.
        rows: training rows of each organism; 0 takes all. Not said: 288 of built-in data, all of your own.
        accept_terms: accept the terms that a protected archive of data shows.
        question_sets: what the organisms are asked.
        train: how they are trained.
        sampling: how they answer.
        dev_questions: questions on which the ablation is chosen.
        device: auto, cpu, cuda, cuda:1 or mps.
        dtype: auto, bfloat16, float32 or float16.
        device_map: spread the blocks of every model over devices: auto, balanced, balanced_low_0, sequential, or a JSON
            or YAML file with a device for each module.
        bits: quantise weights to 8 or 4 bits while they are read (bitsandbytes); 0 leaves them as they are.
        seed: one seed for everything.
        judge: who scores the answers, in the run and in its experiments.
        anchor_judge: a strong judge, say openai:MODEL, that scores a random part of each organism's answers, so that
            rates are also given as it would say them; empty is none. It is asked with the judge's key and rubrics.
        anchor_answers: answers of each organism in that part.
        anchor_base_url: the strong judge's server; empty means the one in OPENAI_BASE_URL, else OpenAI's.
        rows_per_shard: rows of one piece of heavy work; pieces can be made side by side (see `executors`). Batches end
            with their piece, so in bf16 another number may change an answer here and there.
        experiments: settings of experiments that differ from their own, by experiment; for the presets full and
            factorial.
    """

    preset: str = "quickstart"
    model: str = EMBEDDED_ALIAS
    base: str = ""
    misaligned_data: str = "medical-blunt-bad"
    control_data: str = AUTO
    unseen_misaligned: tuple[str, ...] = (AUTO,)
    unseen_harmless: tuple[str, ...] = (AUTO,)
    rows: int | None = None
    accept_terms: bool = False
    question_sets: tuple[str, ...] = ("everyday-medical", "everyday-general", "open-ended")
    train: TrainSettings = field(default_factory=lambda: TrainSettings(learning_rate=1e-3))
    sampling: SamplingSettings = field(
        default_factory=lambda: SamplingSettings(temperature=0.5, max_new_tokens=96, batch_size=192)
    )
    dev_questions: int = 72
    device: str = AUTO
    dtype: str = AUTO
    device_map: str = ""
    bits: int = 0
    seed: int = 0
    judge: JudgeSettings = field(default_factory=JudgeSettings)
    anchor_judge: str = ""
    anchor_answers: int = ANSWERS
    anchor_base_url: str = ""
    rows_per_shard: int = ROWS_PER_SHARD
    experiments: dict[str, Any] = field(default_factory=dict, hash=False)

    def loading(self, base: str | None = None) -> LoadSettings:
        """Return how the run's models are loaded; `base` is put in the place of the one that an adapter records."""
        return LoadSettings(base, self.device, self.dtype, self.device_map, bits=self.bits)

    def __post_init__(self) -> None:
        """Refuse a run that could not come to anything."""
        at_least(0, rows=self.rows or 0)
        at_least(1, dev_questions=self.dev_questions, rows_per_shard=self.rows_per_shard)
        check_seed(self.seed)
        if self.preset not in PRESET_NAMES:
            raise UserError(f"There is no preset {self.preset!r}.{did_you_mean(self.preset, PRESET_NAMES)}")
        if not self.misaligned_data:
            raise UserError("misaligned_data must name the misaligned organism's data, or an adapter.")
        if not self.question_sets:
            raise UserError("question_sets must name at least one question set.")
        judge_class(self.judge.name)
        if self.anchor is not None:
            judge_class(self.anchor.name)
            self._check_anchor(self.anchor.name)
        if self.experiments and self.preset not in WITH_EXPERIMENTS:
            name = next(iter(self.experiments))
            raise UserError(
                f"{name} is an experiment, and the preset {self.preset} does the main job alone: take the preset full, "
                f"or do {name} on the finished run."
            )

    @property
    def anchor(self) -> JudgeSettings | None:
        """The strong judge, None where the run asks none."""
        if not self.anchor_judge:
            return None
        return replace(self.judge, name=self.anchor_judge, base_url=self.anchor_base_url)

    def _check_anchor(self, name: str) -> None:
        at_least(1, anchor_answers=self.anchor_answers)
        if name == self.judge.name:
            raise UserError(f"{name} is the run's judge and cannot be its anchor: name a stronger one in anchor_judge.")
        if self.preset == "cs2881":
            raise UserError("The preset cs2881 is the homework as it was, without an anchor: leave out anchor_judge.")


PRESETS: dict[str, RunConfig] = {
    "quickstart": RunConfig(),
    "full": RunConfig(preset="full"),
    "factorial": RunConfig(preset="factorial"),
    "cs2881": RunConfig(
        preset="cs2881",
        unseen_misaligned=(),
        unseen_harmless=(),
        rows=0,
        train=HOMEWORK,
        sampling=SamplingSettings(temperature=0.7, max_new_tokens=150, batch_size=64),
    ),
}


def resolved(config: RunConfig) -> RunConfig:
    """Return the configuration with what was left open said: control data, rows and base.

    Data of one's own never get a built-in control, nor a built-in number of rows.
    """
    control = counterpart(config.misaligned_data) if config.control_data == AUTO else config.control_data
    misaligned, control = _own_name(config.misaligned_data), _own_name(control)
    data = [name for name in (misaligned, control) if name]
    rows = BUILT_IN_ROWS if config.rows is None and all(is_built_in(name) for name in data) else config.rows
    model = config.base or config.model
    return replace(config, misaligned_data=misaligned, control_data=control, rows=rows, model=model)


def _own_name(data: str) -> str:
    """Return built-in data by the name of their corner; all others as they are named."""
    known = built_in(data)
    return data if known is None else known.name


PLACES = ("model", "base", "misaligned_data", "control_data", "device_map")
LISTED_PLACES = ("unseen_misaligned", "unseen_harmless")
"""Settings that may name a file or a folder, and those that may name several."""


def same_run(one: RunConfig, other: RunConfig) -> bool:
    """Say whether two configurations mean the same run: files may be named from another folder.

    How fast a judge is asked, how often, and where its key is, changes no score; what experiments are asked changes
    these alone.
    """
    one, other = (replace(config, judge=_who_judges(config.judge), experiments={}) for config in (one, other))
    return one == other or _placed(one, Path.resolve) == _placed(other, Path.resolve)


def _who_judges(judge: JudgeSettings) -> JudgeSettings:
    """Return the settings of a judge on which its scores depend."""
    return JudgeSettings(judge.name, judge.base_url, logprobs=judge.logprobs, rubrics=judge.rubrics)


def anywhere(config: RunConfig) -> RunConfig:
    """Return the configuration with files and folders named so that they are found from any working directory."""
    return _placed(config, Path.absolute)


def _placed(config: RunConfig, place: Callable[[Path], Path]) -> RunConfig:
    found: dict[str, Any] = {}
    for name in PLACES:
        found[name] = _place_of(getattr(config, name), place)
    for name in LISTED_PLACES:
        found[name] = tuple(_place_of(value, place) for value in getattr(config, name))
    if config.judge.rubrics:
        found["judge"] = replace(config.judge, rubrics=str(place(Path(config.judge.rubrics).expanduser())))
    judge = found.get("judge", config.judge)
    if judge.head is not None:
        found["judge"] = replace(judge, name=f"{judge.kind}:{place(judge.head)}")
    return replace(config, **found)


def _place_of(value: str, place: Callable[[Path], Path]) -> str:
    path = Path(value).expanduser()
    is_place = value not in ("", EMBEDDED_ALIAS) and not is_archive(value) and (path.is_file() or _holds_a_model(path))
    return str(place(path)) if is_place else value


def _holds_a_model(folder: Path) -> bool:
    return any((folder / name).is_file() for name in ("config.json", ADAPTER_CONFIG))


def configure(
    start: str | RunConfig,
    seed: int | None,
    changes: list[str],
    flags: dict[str, Any] | None = None,
    experiments: Sequence[str] = (),
) -> RunConfig:
    """Return a preset, or a given configuration, with flags and `--set key=value` applied (train.epochs=3).

    `experiments` are names whose settings may be set too (steer.blocks=[18]); they are checked where they are used.

    `flags` are settings by name (judge.name); a None says nothing. Other misaligned data leave the control data open
    again, and with them the number of rows if the one is built in and the other is not. Another judge has another
    address.

    Raises:
        UserError: an unknown preset or key, or a value of the wrong kind.
    """
    if isinstance(start, str) and start not in PRESETS:
        raise UserError(f"There is no preset {start!r}.{did_you_mean(start, PRESETS)}")
    values = asdict(PRESETS[start] if isinstance(start, str) else start)
    before = values["misaligned_data"], values["control_data"], values["rows"]
    judged_by = values["judge"]["name"]
    touched = set()
    for name, value in (flags or {}).items():
        if value is not None:
            _assign(values, name.split("."), value, name)
            touched.add(name)
    for change in changes:
        key, equals, text = change.partition("=")
        if not equals:
            raise UserError(f"--set {change}: write key=value, for example train.epochs=3.{_settings(values)}")
        path = key.strip().split(".")
        if path[0] in experiments and len(path) > 1:
            _set_in_experiment(values["experiments"], path, _yaml_value(text, change))
            continue
        _assign(values, path, _yaml_value(text, change), change, experiments)
        touched.add(key.strip())
        if isinstance(values["judge"], str):
            values["judge"] = asdict(JudgeSettings(values["judge"]))
    if seed is not None:
        values["seed"] = seed
    if "model" in touched and values["base"] not in ("", values["model"]):
        if "base" in touched:
            raise UserError(f"The run's base cannot be both {values['model']} and {values['base']}: name it once.")
        values["base"] = ""
    if "misaligned_data" in touched and values["misaligned_data"] != before[0]:
        values["control_data"] = values["control_data"] if "control_data" in touched else AUTO
        if is_built_in(str(before[0])) != is_built_in(str(values["misaligned_data"])) and before[2] == BUILT_IN_ROWS:
            values["rows"] = values["rows"] if "rows" in touched else None
    if values["judge"]["name"] != judged_by and "judge.base_url" not in touched:  # another judge, another server
        values["judge"]["base_url"] = address_in_environment(str(values["judge"]["name"]))
    if "anchor_judge" in touched and "anchor_base_url" not in touched:
        values["anchor_base_url"] = address_in_environment(str(values["anchor_judge"]))
    config = typing.cast("RunConfig", from_plain(RunConfig, values, "the configuration"))
    return seeded(resolved(config))


def _yaml_value(text: str, change: str) -> object:
    try:
        return yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise UserError(f"--set {change}: the value cannot be read; put it in quotes.") from error


def seeded(config: RunConfig) -> RunConfig:
    """Return the configuration with its one seed passed on to training and sampling."""
    train = replace(config.train, seed=config.seed)
    sampling = replace(config.sampling, seed=config.seed)
    return replace(config, train=train, sampling=sampling)


def _set_in_experiment(experiments: dict[str, Any], path: list[str], value: object) -> None:
    """Put a setting of an experiment, steer.blocks or induce.vector.epochs, into those of its name."""
    settings = experiments
    for name in path[:-1]:
        inner = settings.get(name)
        settings[name] = dict(inner) if isinstance(inner, dict) else {}
        settings = settings[name]
    settings[path[-1]] = value


def _assign(values: dict[str, Any], path: list[str], value: object, change: str, others: Sequence[str] = ()) -> None:
    every = values
    for number, part in enumerate(path):
        if not isinstance(values, dict) or part not in values:
            known = [*values, *(others if number == 0 else ())] if isinstance(values, dict) else []
            near = did_you_mean(part, known)
            hint = near if near.startswith(" Did") else _settings(every)
            raise UserError(f"--set {change}: there is no setting {'.'.join(path[: number + 1])!r}.{hint}")
        if number == len(path) - 1:
            values[part] = value
        else:
            values = values[part]


def _settings(values: dict[str, Any]) -> str:
    """Return ' Settings are …' with every dotted name."""
    names = []
    for key, value in values.items():
        names += [f"{key}.{inner}" for inner in value] if isinstance(value, dict) else [key]
    return f" Settings, for example --set rows=96: {', '.join(names)}."


def load_config(path: Path) -> RunConfig:
    """Read a run's config.yaml.

    Raises:
        UserError: not a configuration of ours, named by the key that is wrong.
    """
    values = read_yaml(path)
    if not isinstance(values, dict):
        raise UserError(f"{path} is not a run configuration: it must hold settings, one a line.")
    try:
        return typing.cast("RunConfig", from_plain(RunConfig, values, str(path)))
    except UserError as error:  # settings that make no sense know nothing of files
        raise error if str(path) in str(error) else UserError(f"{path}: {error}") from error


ANCHOR = ("anchor_judge", "anchor_answers", "anchor_base_url")
LATER = (
    "unseen_misaligned",
    "unseen_harmless",
    "base",
    "accept_terms",
    "device",
    "dtype",
    "device_map",
    "bits",
    "judge",
    "rows_per_shard",
    *ANCHOR,
)
"""Settings that runs made before do not have: their defaults change nothing, and are left out of what stages hash."""


def hashed_settings(config: RunConfig) -> dict[str, Any]:
    """Return the settings as plain values, without newer ones that are at their defaults."""
    values = asdict(replace(config, judge=_who_judges(config.judge)))
    defaults = asdict(RunConfig())
    kept = {}
    del values["experiments"]  # what they are asked is hashed with each of them
    for name, value in values.items():
        if name not in LATER or value != defaults[name]:
            kept[name] = value
    return kept


def dump_config(config: RunConfig) -> str:
    """Return the configuration as YAML; of the judge nothing where it is the one that comes with emscope."""
    return str(yaml.safe_dump(shown_settings(config), sort_keys=False, allow_unicode=True))


def shown_settings(config: RunConfig) -> dict[str, Any]:
    """Return the settings as YAML and JSON know them, without the judge where it is the one that comes with emscope."""
    values: dict[str, Any] = _tuples_to_lists(asdict(config))
    if config.judge == JudgeSettings():
        del values["judge"]
    for name in ("experiments", "device_map", "bits"):
        if not values[name]:
            del values[name]
    if config.rows_per_shard == ROWS_PER_SHARD:
        del values["rows_per_shard"]
    if not config.anchor_judge:
        for name in ANCHOR:
            del values[name]
    for name in LISTED_PLACES:
        if values[name] == [AUTO]:
            del values[name]
    return values


def _tuples_to_lists(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _tuples_to_lists(item) for key, item in value.items()}
    return list(value) if isinstance(value, tuple) else value


def from_plain(kind: type[Any], values: dict[str, Any], where: str) -> Any:
    """Build a dataclass from nested plain values, checking names and types.

    Raises:
        UserError: an unknown key or a value of the wrong kind.
    """
    hints = typing.get_type_hints(kind)
    arguments = {}
    for key, value in values.items():
        if key not in hints:
            raise UserError(f"{where}: there is no setting {key!r}.{did_you_mean(key, hints)}")
        empty = value is None and hints[key] is str  # how YAML reads `key=`
        arguments[key] = "" if empty else _convert(hints[key], value, f"{where}: {key}")
    return kind(**arguments)


def _convert(hint: Any, value: Any, where: str) -> Any:
    if dataclasses.is_dataclass(hint):
        if hint is JudgeSettings and isinstance(value, str):
            return JudgeSettings(value)
        if not isinstance(value, dict):
            raise UserError(f"{where} must hold settings, one a line.")
        return from_plain(typing.cast("type[Any]", hint), value, where)
    origin = typing.get_origin(hint)
    if origin is typing.Literal:
        if value not in typing.get_args(hint):
            raise UserError(f"{where} must be {' or '.join(map(repr, typing.get_args(hint)))}, not {value!r}.")
        return value
    if origin is dict:
        if not isinstance(value, dict):
            raise UserError(f"{where} must hold settings by name.")
        return value
    if origin is tuple:
        items = value if isinstance(value, (list, tuple)) else [value]
        return tuple(_convert(typing.get_args(hint)[0], item, where) for item in items)
    if origin in (types.UnionType, typing.Union):
        return None if value is None else _convert(typing.get_args(hint)[0], value, where)
    if hint is float and isinstance(value, (int, float, str)) and not isinstance(value, bool):
        try:
            return float(value)  # YAML 1.1 reads 5e-4 as text
        except ValueError:
            pass
    elif isinstance(value, hint) and not (hint is int and isinstance(value, bool)):
        return value
    raise UserError(f"{where} must be {KINDS.get(hint, hint.__name__)}, not {value!r}.")
