"""The Ali-CCP converter, on a few lines joined by hand and on files of the same format."""

import pyarrow as pa
import pyarrow.compute as pc
import pytest

from raymtl.config.load import load_config
from raymtl.data.convert import convert, text_table
from raymtl.data.convert.aliccp import ADMIT_COUNT, ITEM_FIELDS, LIST_FIELDS, MAPPED, USER_FIELDS, convert_aliccp
from raymtl.data.units import plan_input
from raymtl.data.validation.run import check_data
from raymtl.errors import DataError
from tests.helpers.aliccp_like import write_aliccp_like
from tests.helpers.converted import read_split


def features(*tokens: tuple[str, int]) -> str:
    return "\x01".join(f"{field}\x02{number}\x031.0" for field, number in tokens)


COMMON = [
    f"aa,3,{features(('101', 1), ('121', 30), ('109_14', 77))}",
    f"bb,3,{features(('101', 2), ('127_14', 78), ('127', 31))}",
]
SKELETON = [
    f"1,0,0,bb,3,{features(('205', 50), ('210', 60), ('301', 90))}",
    f"2,1,1,aa,5,{features(('205', 51), ('210', 60), ('210', 61), ('206', 70), ('301', 91))}",
    f"3,0,1,aa,2,{features(('205', 52), ('301', 91))}",
    f"4,1,0,aa,3,{features(('205', 53), ('205', 54), ('301', 90))}",
]


def write(folder, **files: list[str]) -> str:
    """The four files of few lines; `skeleton_train`, … replace theirs. Returns the folder's path."""
    folder.mkdir()
    parts = {
        f"{kind}_{split}": lines
        for kind, lines in (("skeleton", SKELETON), ("common", COMMON))
        for split in ("train", "test")
    }
    names = {"skeleton": "sample_skeleton", "common": "common_features"}
    for name, lines in (parts | files).items():
        kind, split = name.split("_")
        (folder / f"{names[kind]}_{split}.csv").write_text("".join(line + "\n" for line in lines))
    return str(folder)


@pytest.fixture(scope="module")
def source(tmp_path_factory) -> str:
    folder = tmp_path_factory.mktemp("aliccp")
    write_aliccp_like(folder, rows=1501, users=60, items=90, seed=1)
    return str(folder)


@pytest.fixture(scope="module")
def out(source, tmp_path_factory) -> str:
    folder = str(tmp_path_factory.mktemp("converted"))
    convert("aliccp", source, folder)
    return folder


def test_the_rows_by_hand(tmp_path):
    convert_aliccp(write(tmp_path / "in"), f"{tmp_path}/out")
    rows = read_split(f"{tmp_path}/out", "test")
    assert rows.equals(read_split(f"{tmp_path}/out", "train"))
    assert rows.column_names == [
        *USER_FIELDS.values(),
        *ITEM_FIELDS.values(),
        *LIST_FIELDS.values(),
        "click",
        "conversion",
    ]
    found = rows.to_pydict()
    assert {name: column for name, column in found.items() if set(map(str, column)) not in ({"None"}, {"[]"})} == {
        "user_id": [2, 1, 1],  # the third impression has a conversion without a click
        "user_profile": [None, 30, 30],
        "user_consumption_2": [31, None, None],
        "item_id": [50, 51, 54],
        "item_category": [None, 70, None],
        "position": [90, 91, 90],
        "item_intentions": [[60], [60, 61], []],
        "click": [0, 1, 1],
        "conversion": [0, 1, 0],
    }


def test_all_rows_against_plain_parsing(source, out, monkeypatch, tmp_path):
    users = {}
    with open(f"{source}/common_features_train.csv") as file:
        for line in file:
            key, _, text = line.strip().split(",")
            users[key] = [token.split("\x02") for token in text.split("\x01")]
    expected = []
    with open(f"{source}/sample_skeleton_train.csv") as file:
        for line in file:
            _, click, conversion, key, _, text = line.strip().split(",")
            if click >= conversion:
                tokens = [token.split("\x02") for token in text.split("\x01")] + users[key]
                row = {
                    name: [int(v.split("\x03")[0]) for f, v in tokens if f == field]
                    for field, name in LIST_FIELDS.items()
                }
                for field, name in (USER_FIELDS | ITEM_FIELDS).items():
                    row[name] = ([None] + [int(v.split("\x03")[0]) for f, v in tokens if f == field])[-1]
                expected.append(row | {"click": int(click), "conversion": int(conversion)})
    assert read_split(out, "train").to_pylist() == expected
    assert 1480 < len(expected) < 1501
    monkeypatch.setattr(text_table, "_BLOCK_BYTES", 20_000)  # in many batches the same
    convert("aliccp", source, str(tmp_path))
    assert read_split(tmp_path, "train").to_pylist() == expected
    assert read_split(tmp_path, "test").equals(read_split(out, "test"))


def test_the_configuration_fits_the_data(out):
    config, rows = load_config(f"{out}/config.yaml"), read_split(out, "train")
    assert plan_input(config, "train").rows == rows.num_rows
    assert set(config.features) == set(rows.column_names) - {"click", "conversion"}
    assert config.tasks["conversion"].parent == "click"
    assert config.data.scenario.values == sorted(pc.unique(rows["position"]).to_pylist())
    assert config.map_tables() == [name for name in config.tables if name in MAPPED]
    items = pc.value_counts(rows["item_id"])
    often = pc.sum(pc.greater_equal(items.field("counts"), ADMIT_COUNT)).as_py()
    assert 20 < often < config.tables["item_id"].rows < 2 * often + 100
    assert config.features["user_age"].side == "user"


def test_the_check_finds_no_problem(out, in_process):
    assert check_data(load_config(f"{out}/config.yaml"), "both").problems == []


def test_the_folders_of_the_archives_are_found_too(tmp_path):
    source = write(tmp_path / "in")
    for split in ("train", "test"):
        (tmp_path / "in" / f"sample_{split}").mkdir()
        for name in ("sample_skeleton", "common_features"):
            (tmp_path / "in" / f"{name}_{split}.csv").rename(
                tmp_path / "in" / f"sample_{split}" / f"{name}_{split}.csv"
            )
    convert_aliccp(source, f"{tmp_path}/out")
    assert read_split(f"{tmp_path}/out", "train").num_rows == 3


def test_a_missing_file_is_named(tmp_path):
    source = write(tmp_path / "in")
    (tmp_path / "in" / "common_features_test.csv").unlink()
    with pytest.raises(DataError, match=r"has no common_features_test.csv or .*; download it from https://tianchi"):
        convert_aliccp(source, f"{tmp_path}/out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({"skeleton_train": [*SKELETON, "5,0,0,aa,1"]}, "skeleton_train.csv`, line 5: 5 fields instead of 6"),
        ({"skeleton_train": [SKELETON[0], "2,2,0,aa,1,"]}, "skeleton_train.csv`, line 2: click is '2', not 0 or 1"),
        (
            {"skeleton_train": [SKELETON[0].replace("bb", "cc")]},
            "line 1: common_feature_index is 'cc', not in `.*common_features_train.csv`; fix",
        ),
        (
            {"skeleton_test": [SKELETON[0] + "\x01206"]},
            "skeleton_test.csv`, line 1: feature_list is .* not triples of field",
        ),
        (
            {"common_train": [COMMON[0], COMMON[1].replace("101\x022", "101\x02x")]},
            "common_features_train.csv`, line 2: feature_list is .*, not a list with integer IDs of field 101",
        ),
        ({"common_train": []}, "common_features_train.csv` is not readable as text"),
        ({"skeleton_train": [SKELETON[2]]}, "skeleton_train.csv` has no impressions; download it again"),
        (
            {"skeleton_train": [f"1,0,0,aa,1,{features(('205', 5))}"]},
            r"field 301 \(position\) has 0 values in the training data, not a few",
        ),
    ],
)
def test_a_wrong_line_is_named(tmp_path, files, message):
    with pytest.raises(DataError, match=message):
        convert_aliccp(write(tmp_path / "in", **files), f"{tmp_path}/out")
    assert "not finished" in (tmp_path / "out" / "config.yaml").read_text()


def test_the_look_alike_has_something_to_learn(out):
    rows = read_split(out, "train")
    rates = pa.table(rows).group_by("item_id").aggregate([("click", "mean"), ("click", "count")])
    test = read_split(out, "test")
    rate = rates["click_mean"].take(pc.index_in(test["item_id"], rates["item_id"])).fill_null(0.1)
    high = pc.greater(rate, pc.mean(rate))
    assert pc.mean(test["click"].filter(high)).as_py() > pc.mean(test["click"].filter(pc.invert(high))).as_py() + 0.03
