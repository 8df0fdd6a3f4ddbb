"""docs/observability.md lists the metrics that there are."""

from pathlib import Path

from raymtl.telemetry.metrics import METRICS, PREFIX, RAY_PREFIX

PAGE = Path(__file__).parents[2] / "docs" / "observability.md"


def test_the_docs_list_every_metric() -> None:
    head = "| metric | from | more tags | meaning |\n|---|---|---|---|\n"
    table = PAGE.read_text().partition(head)[2].partition("\n\n")[0].splitlines()
    assert table == [
        f"| `{RAY_PREFIX}{PREFIX}{m.name}` | {m.ranks} | {', '.join(f'`{tag}`' for tag in m.tags)} | {m.meaning} |"
        for m in METRICS
    ]
