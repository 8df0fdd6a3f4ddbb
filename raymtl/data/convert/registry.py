"""The table of converters: one entry per public data set."""

from collections.abc import Callable
from dataclasses import dataclass

from raymtl.data.convert.aliccp import convert_aliccp
from raymtl.data.convert.aliexpress import convert_aliexpress
from raymtl.data.convert.census import convert_census
from raymtl.data.convert.criteo_1tb import convert_criteo_1tb
from raymtl.data.convert.criteo_attribution import convert_criteo_attribution
from raymtl.data.convert.kuairand import convert_kuairand
from raymtl.data.convert.movielens import convert_movielens
from raymtl.data.convert.taobao import convert_taobao
from raymtl.data.convert.tenrec import convert_tenrec
from raymtl.errors import DataError


@dataclass(frozen=True)
class Converter:
    """One public data set and the function that turns it into logs."""

    summary: str
    """One line for the list that `raymtl convert` prints without a name: what the data set is, and its tasks."""
    source: str
    """The required content of the source folder, and where to download it."""
    run: Callable[[str, str], str]
    """`run(source, out)` writes the logs and `out/config.yaml`, and returns the path of that file."""


CONVERTERS: dict[str, Converter] = {
    "census": Converter(
        summary="UCI Census-Income (KDD), 299,285 rows: income above 50,000 and never married, the MMoE paper's pair",
        source="census_income_1994_1995_{train,test}.csv.gz, or UCI's census-income.data and census-income.test "
        "(https://archive.ics.uci.edu/dataset/117), plain or .gz",
        run=convert_census,
    ),
    "movielens": Converter(
        summary="MovieLens-1M, 1,000,209 ratings from 2000 to 2003, day by day: like, love and stars, for the daily job",
        source="users.dat, movies.dat and ratings.dat of ml-1m.zip (https://grouplens.org/datasets/movielens/1m/)",
        run=convert_movielens,
    ),
    "aliccp": Converter(
        summary="Ali-CCP (Alibaba), 85 million impressions: click, and conversion after the click, on three positions",
        source="sample_skeleton_{train,test}.csv and common_features_{train,test}.csv of sample_train.tar.gz and "
        "sample_test.tar.gz (https://tianchi.aliyun.com/dataset/408)",
        run=convert_aliccp,
    ),
    "kuairand": Converter(
        summary="KuaiRand-Pure, 1K or 27K (Kuaishou), up to 322 million impressions day by day: eight kinds of feedback",
        source="the log_*, user_features_* and video_features_basic_* files of one version, or the folder above them "
        "(https://kuairand.com)",
        run=convert_kuairand,
    ),
    "taobao": Converter(
        summary="Taobao user behaviour (Alibaba), 100 million events with histories: favourite, cart, buy in 24 hours",
        source="UserBehavior.csv of UserBehavior.csv.zip (https://tianchi.aliyun.com/dataset/649)",
        run=convert_taobao,
    ),
    "aliexpress": Converter(
        summary="AliExpress search logs of the Netherlands, Spain, France and the US: click, and conversion after the click",
        source="AliExpress_{NL,ES,FR,US}/{train,test}.csv of the Multitask-Recommendation-Library, or one of these folders "
        "(https://github.com/easezyc/Multitask-Recommendation-Library)",
        run=convert_aliexpress,
    ),
    "tenrec": Converter(
        summary="Tenrec (Tencent), 120 million impressions of videos with ten earlier clicks: click, follow, like, share",
        source="ctr_data_1M.csv, or else QK-video.csv and QB-video.csv, of Tenrec.zip "
        "(https://github.com/yuangh-x/2022-NIPS-Tenrec)",
        run=convert_tenrec,
    ),
    "criteo_attribution": Converter(
        summary="Criteo attribution, 16 million impressions of 30 days: click, sale within 30 days, attributed sale",
        source="criteo_attribution_dataset.tsv.gz, plain or .gz "
        "(https://huggingface.co/datasets/criteo/criteo-attribution-dataset)",
        run=convert_criteo_attribution,
    ),
    "criteo_1tb": Converter(
        summary="Criteo 1TB click logs, four billion impressions of 24 days: click, on 13 integers and 26 categories",
        source="day_0 to day_23, or the first of them, plain or .gz "
        "(https://huggingface.co/datasets/criteo/CriteoClickLogs)",
        run=convert_criteo_1tb,
    ),
}


def convert(name: str, source: str, out: str) -> str:
    """Convert the data set `name` from folder `source` into folder `out`; returns the path of the new `config.yaml`.

    Raises DataError for a name that is not in `CONVERTERS`, and for faults of the source.
    """
    converter = CONVERTERS.get(name)
    if converter is None:
        raise DataError(
            f"there is no converter `{name}`; choose one of {sorted(CONVERTERS)}, or add one (docs/converters.md)"
        )
    return converter.run(source, out)
