"""A report shows what the logs and the configuration say, and a browser does not run it."""

import json
from pathlib import Path

from raymtl.reports.html import write_report
from tests.helpers.fake_run import write_run

BAD = "<script>alert(1)</script>"


def test_scenarios_columns_and_names_are_text(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    write_run(folder, evals=2)
    for path in folder.iterdir():
        if path.is_file() and path.suffix in (".yaml", ".json", ".jsonl"):
            said = json.dumps(BAD)[1:-1] if path.suffix != ".yaml" else f"'{BAD}'"
            path.write_text(path.read_text().replace("search", said).replace("s3://logs/", f"s3://{BAD}/"))
    page = Path(write_report(str(folder))).read_text()
    assert "<script" not in page
    assert "&lt;script&gt;alert(1)" in page
