"""The code in docs/synth.md and docs/converters.md runs, and the spec's table there is complete."""

import re
from pathlib import Path

from raymtl.config.load import load_config
from raymtl.data.units import plan_input
from raymtl.synth import SynthSpec, write_logs
from raymtl.synth.columns import LABELS

DOCS = Path(__file__).parents[3] / "docs"


def code_of(page: str) -> str:
    (code,) = re.findall(r"```python\n(.*?)```", (DOCS / page).read_text(), re.S)
    return code


def test_the_example_converter(tmp_path):
    (tmp_path / "log.csv").write_text("user,item,price,click\nu1,7,9.5,0\nu2,8,1.0,1\nu1,8,2.5,0\n")
    names: dict = {}
    exec(code_of("converters.md"), names)
    config = load_config(names["convert_shop"](str(tmp_path), str(tmp_path / "out")))
    assert plan_input(config, "train").rows == 3


def test_the_example_of_synthetic_logs(tmp_path, capsys):
    exec(code_of("synth.md"), {"out": str(tmp_path)})
    assert capsys.readouterr().out.startswith("20000 ")


def test_every_column_and_every_key_of_the_spec_is_described(tmp_path):
    import pyarrow.parquet as pq

    page = (DOCS / "synth.md").read_text()
    for name, field in SynthSpec.model_fields.items():
        (row,) = re.findall(rf"^\| `{name}` \|.*$", page.split("## The spec")[1], re.M)
        default = field.default
        if isinstance(default, int | float) and not isinstance(default, bool):
            assert f"| {default:,} |" in row, row
    more = {
        "behaviours": True,
        "interest": 1.0,
        "engagement": True,
        "spend": True,
        "hidden_intent": 1.0,
        "buy_delay_days": 1,
    }
    write_logs(SynthSpec(days=1, rows_per_day=100, users=5, items=5, **more), str(tmp_path))
    columns = pq.read_schema(next(tmp_path.glob("ds=*/*.parquet"))).names
    assert {*LABELS, "hist_items", "buy_time", "p_like"} <= set(columns)
    described = page.split("## Columns")[1].split("## How the labels")[0]
    assert [name for name in columns if f"`{name}`" not in described] == []
