"""Seeded mutations of valid configurations: each is refused in clean sentences, or its model trains a step.

A mutation changes values, keys or the YAML text. What the configuration accepts goes through every check that needs no logs:
names of metrics, the search space, the model without memory, the plan of its tables; then small models train for a step. Prints
every mutation that ended otherwise, with its seed; `--only SEED` shows one.
"""

import argparse
import copy
import json
import random
import signal
import time
import traceback
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
import yaml

from raymtl.config.load import config_from_dict, dump_config, load_config
from raymtl.config.root import Config
from raymtl.config.schema import parse_annotation
from raymtl.config.source import read_source
from raymtl.embeddings.planning import dry_plan
from raymtl.errors import ConfigError
from raymtl.training.build import build
from raymtl.training.metric_checks import check_metric_names
from raymtl.training.shapes import model_entries
from raymtl.tuning.check import check as check_search
from tests.helpers.served_version import alone
from tests.helpers.worker_processes import mixed_config, share

CONF = Path(__file__).parents[3] / "jobs" / "conf"
LIMIT_S = 30
TRAINED_NUMBERS = 300_000
"""Weights of the largest model that is trained for a step."""
WORDS = [
    "items",
    "type",
    "keys",
    "to",
    "__init__",
    "class",
    "x.y",
    "a b",
    "",
    "ü",
    "日本",
    "💥",
    "\0",
    "n" * 300,
    "../x",
    "<b>",
]
VALUES: list[Any] = [
    *(None, True, False, 0, 1, -1, 2, 3, 4, 7, 10**9, 2**31, 2**63, 2**64, -(2**63), 10**30, 10**400),
    *(0.0, -0.0, 0.5, 1.0, 1.5, 1e-300, 1e300, float("inf"), float("-inf"), float("nan")),
    *("1", "1e3", "null", "2026-02-30", "2026-01-01", "9999-12-31", "${HOME}", "{{x}}", "%s", "~/x", "s3://b/x"),
    *([], {}, [1], ["x"], [[]], [None], {"x": 1}, {"": 0}, [0], [1, 2, 3], [0.9, 0.9], {"type": "x"}, {"kind": "id"}),
    *WORDS,
]
TEXTS = [
    "\t",
    "\0",
    "\ufeff",
    "---\n",
    "...\n",
    "&a ",
    "*a",
    "<<: *a\n",
    "!!python/object:os.system ",
    "!!set ",
    "? ",
    "[",
    "}",
    "'",
]
TEXTS += [
    '"',
    "#",
    "|\n",
    ">-\n",
    ": ",
    "- ",
    "1: 2\n",
    "~: 1\n",
    ".nan",
    "0x",
    "\r\n",
    "\u2028",
    "%YAML 1.1\n",
    "[" * 3000,
    "{a: " * 3000,
]

_BASES: list[dict[str, Any]] = []


def bases() -> list[dict[str, Any]]:
    """Valid configurations: those of the presets as written, and with every default."""
    if not _BASES:
        for path in sorted(CONF.glob("*.yaml")):
            raw = narrow(read_source(str(path), None).merged())
            try:
                config = config_from_dict(raw)
            except ConfigError:
                continue  # a base of others
            _BASES.extend((raw, yaml.safe_load(dump_config(config))))
        mixed = [mixed_config([None, "row_wise", "replicated"], kind) for kind in ("rowwise_adagrad", "adagrad", "sgd")]
        _BASES.extend(yaml.safe_load(dump_config(config)) for config in mixed)
    return _BASES


def narrow(raw: dict[str, Any]) -> dict[str, Any]:
    """With narrow layers, so that most models are small enough to train."""

    def small(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: small(inner) for key, inner in value.items()}
        if isinstance(value, list):
            return [small(inner) for inner in value]
        return min(value, 8) if isinstance(value, int) and not isinstance(value, bool) else value

    return raw | {"model": small(raw.get("model", {})), "table_defaults": {**raw.get("table_defaults", {}), "dim": 8}}


def places(raw: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """The path of every value below `raw`."""
    keys = raw if isinstance(raw, dict) else range(len(raw)) if isinstance(raw, list) else ()
    for key in keys:
        yield (*path, key)
        yield from places(raw[key], (*path, key))


def at(raw: Any, path: Sequence[Any]) -> Any:
    for key in path:
        raw = raw[key]
    return raw


def choices_at(raw: Any, path: Sequence[Any]) -> list[Any]:
    """Other values of a choice, and the tags of other sections, where the configuration has them."""
    field = parse_annotation(Config)
    for n, key in enumerate(path):
        here = at(raw, path[:n])
        section = field.section or field.variants.get(
            str(here.get(field.discriminator)) if isinstance(here, dict) else ""
        )
        if section is not None and key in section.model_fields:
            if n == len(path) - 1 and field.variants and key == field.discriminator:
                return list(field.variants)
            info = section.model_fields[key]
            field = parse_annotation(
                info.annotation, tuple(info.metadata), str(info.discriminator) if info.discriminator else None
            )
        elif field.item is not None:
            field = field.item
        else:
            return []
    return list(getattr(field.type, "__args__", ())) if "Literal" in str(field.type) else []


def tuned(raw: dict[str, Any], draw: random.Random) -> None:
    """Change one number or choice to another that is often valid, in place."""
    leaves = [p for p in places(raw) if isinstance(at(raw, p), int | float | str | bool)]
    path = draw.choice([p for p in leaves if not isinstance(at(raw, p), str) or choices_at(raw, p)])
    holder, value = at(raw, path[:-1]), at(raw, path)
    if isinstance(value, bool):
        holder[path[-1]] = not value
    elif isinstance(value, str):
        holder[path[-1]] = draw.choice(choices_at(raw, path))
    else:
        near = [value + 1, value * 2, value // 2 if isinstance(value, int) else value / 2, -value, value * 10**6]
        holder[path[-1]] = draw.choice([*near, 0, 1, 2, 3, 2**31, 2**62, 1e-300, 1e300])


def changed(raw: dict[str, Any], draw: random.Random) -> None:
    """Change one value or key in place."""
    every = list(places(raw))
    path = draw.choice(every)
    holder, key = at(raw, path[:-1]), path[-1]
    value = holder[key]
    kind = draw.randrange(8)
    if kind == 0 and (known := choices_at(raw, path)):
        holder[key] = draw.choice(known)
    elif kind == 1 and isinstance(value, int | float) and not isinstance(value, bool):
        holder[key] = draw.choice([value + 1, value - 1, -value, value * 1000, value / 3, float(value), str(value)])
    elif kind == 2:
        del holder[key]
    elif kind == 3 and isinstance(holder, dict):
        name = draw.choice([*WORDS, *holder])
        holder[name] = holder.pop(key)
    elif kind == 4:
        other = draw.choice(list(places(raw)))
        holder[key] = copy.deepcopy(at(raw, other))
    elif kind == 5 and isinstance(holder, dict):
        holder[draw.choice(WORDS)] = copy.deepcopy(value)
    elif kind == 6 and isinstance(value, list) and value:
        value.append(copy.deepcopy(draw.choice([*value, *VALUES])))
    else:
        holder[key] = copy.deepcopy(draw.choice(VALUES))


def mutated(seed: int) -> str:
    """The YAML of a mutation."""
    draw = random.Random(seed)
    raw = copy.deepcopy(draw.choice(bases()))
    gentle = draw.random() < 0.6
    for _ in range(draw.choice([1, 1, 1, 2, 3])):
        if any(places(raw)):
            (tuned if gentle else changed)(raw, draw)
    text = yaml.safe_dump(raw, sort_keys=False, allow_unicode=draw.random() < 0.5)
    if not gentle and draw.random() < 0.3:
        lines = text.splitlines(keepends=True)
        line = draw.randrange(len(lines))
        column = draw.randrange(len(lines[line]))
        lines[line] = draw.choice(
            [
                lines[line][:column] + draw.choice(TEXTS) + lines[line][column:],
                lines[line][:column] + lines[line][column + 1 :],
                lines[line] * 2,
                " " + lines[line],
            ]
        )
        text = "".join(lines)
    return text


def shrunk(config: Config) -> Config | None:
    """The configuration with small tables and batches; None if its model is large, or code of the user's."""
    raw = config.model_dump(mode="json")
    for name, table in raw["tables"].items():
        raw["tables"][name]["rows"] = min(table["rows"], 20)
    raw["train"]["batch_size"] = min(raw["train"]["batch_size"] or 16, 16)
    raw["train"] |= {"workers": 1, "min_workers": None}
    entries = model_entries(small := config_from_dict(raw))
    return small if entries is not None and sum(v.numel() for v in entries.values()) <= TRAINED_NUMBERS else None


def tried(text: str, trains: bool) -> str:
    """Run one mutation: `refused`, `valid` or `trained`."""
    try:
        config = load_config("fuzz.yaml", text=text)
        check_metric_names(config)
        if config.tune is not None:
            check_search(config)
        model_entries(config)
        if config.tables:
            dry_plan(config, workers=2, memory_bytes=80 << 30, device="cuda", workers_per_node=8)
        if not trains or config.train.sparse_optimizer.type == "adam" or (small := shrunk(config)) is None:
            return "valid"
        with alone() as group:
            built = build(small, {}, 4, torch.device("cpu"), group)
            loss = built.model(share(small, 0, 1, seed=1))[0]
            loss.backward()
            built.optimizers.step()
        return "trained"
    except ConfigError as error:
        unclean(str(error))
        return "refused"


def unclean(message: str) -> None:
    """Raise AssertionError if a sentence is not one for users."""
    for word in ("Traceback", "pydantic", "<class", " object at 0x", "\0", "validation error", "Input should"):
        assert word not in message, f"{word!r} in {message!r}"
    assert len(message) < 6000, f"{len(message)} characters: {message[:200]!r}"
    assert all(len(line) < 1500 for line in message.splitlines()), message


def fault(seed: int, trains: bool) -> tuple[str, str]:
    """What became of a mutation, and if that is wrong, how."""

    def late(signum: int, frame: Any) -> None:
        raise TimeoutError(f"still running after {LIMIT_S} s")

    before = signal.signal(signal.SIGALRM, late)
    signal.alarm(LIMIT_S)
    try:
        return tried(mutated(seed), trains), ""
    except BaseException as error:
        if isinstance(error, KeyboardInterrupt):
            raise
        where = [f"{f.filename.rpartition('/')[2]}:{f.lineno}" for f in traceback.extract_tb(error.__traceback__)[-3:]]
        return "wrong", f"{type(error).__name__}: {str(error)[:300]} ({' '.join(where)})"
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--mutations", type=int, default=10_000)
    parser.add_argument("--first", type=int, default=0, help="first seed")
    parser.add_argument("--only", type=int, help="show the mutation of this seed")
    options = parser.parse_args()
    if options.only is not None:
        print(mutated(options.only))
        print(tried(mutated(options.only), trains=True))
        return
    began, found = time.monotonic(), Counter[str]()
    for seed in range(options.first, options.first + options.mutations):
        outcome, how = fault(seed, trains=True)
        found[outcome] += 1
        if how:
            print(f"{seed}: {how}", flush=True)
    print(json.dumps({**found, "seconds": round(time.monotonic() - began)}))


if __name__ == "__main__":
    main()
