"""Files in exactly KuaiRand's format, with feedback to learn: by user, video and tab."""

import os

import numpy as np

_DAY_MS = 86_400_000
_START_MS = 1_649_347_200_000  # 2022-04-08 00:00 in Beijing
_LOG = (
    "user_id,video_id,date,hourmin,time_ms,is_click,is_like,is_follow,is_comment,is_forward,is_hate,long_view,play_time_ms,"
    "duration_ms,profile_stay_time,comment_stay_time,is_profile_enter,is_rand,tab"
)
_USER = (
    "user_id,user_active_degree,is_lowactive_period,is_live_streamer,is_video_author,follow_user_num,follow_user_num_range,"
    "fans_user_num,fans_user_num_range,friend_user_num,friend_user_num_range,register_days,register_days_range,"
    + ",".join(f"onehot_feat{n}" for n in range(18))
)
_VIDEO = (
    "video_id,author_id,video_type,upload_dt,upload_type,visible_status,video_duration,server_width,server_height,music_id,"
    "music_type,tag"
)


def write_kuairand_like(folder, rows: int, users: int, videos: int, version: str = "pure", seed: int = 0) -> None:
    """Write the logs, `user_features_*.csv` and `video_features_basic_*.csv` of one version below `folder/data`.

    Of the `rows`, three fifths are in the first standard log, a fifth each in the second and in the random one. Some features
    are missing, and some videos have several tags, in quotes. Version `27k` has two parts of each standard log.
    """
    random = np.random.default_rng(seed)
    taste, quality = random.normal(0, 1, users), random.normal(0, 1, videos)
    duration = random.integers(3_000, 120_000, videos)
    os.makedirs(f"{folder}/data", exist_ok=True)
    _write(folder, f"user_features_{version}", _USER, [_user_line(random, n) for n in range(users)])
    lines = [_video_line(random, n, duration[n]) for n in range(videos)]
    _write(folder, f"video_features_basic_{version}", _VIDEO, lines)
    phases = {"standard_4_08_to_4_21": (3 * rows // 5, 0, 14), "standard_4_22_to_5_08": (rows // 5, 14, 31)}
    for name, (count, first, last) in (phases | {"random_4_22_to_5_08": (rows // 5, 14, 31)}).items():
        user = np.sort(random.integers(users, size=count))
        video = (videos * random.random(count) ** (1 if "random" in name else 2)).astype(int)
        time = random.integers(first * _DAY_MS, last * _DAY_MS, count)
        tab = random.choice([0, 1, 2, 4, 8], count, p=[0.2, 0.5, 0.1, 0.1, 0.1])
        score = taste[user] + quality[video] + (tab == 1)
        feedback = {f: random.random(count) < 1 / (1 + np.exp(bias - score)) for f, bias in _BIASES.items()}
        feedback["long_view"] &= feedback["is_click"]
        columns = _columns(user, video, time, tab, feedback, duration, "random" in name)
        rows_of = [
            "{},{},{},{},{},{},{},{},{},{},{},{},{},{},{},{},{},{},{}".format(*row)
            for row in zip(*columns, strict=True)
        ]
        if version == "27k" and "standard" in name:
            for part in (1, 2):
                _write(folder, f"log_{name}_27k_part{part}", _LOG, rows_of[part - 1 :: 2])
        else:
            _write(folder, f"log_{name}_{version}", _LOG, rows_of)


_BIASES = {
    "is_click": 0.5,
    "is_like": 4.0,
    "is_follow": 5.5,
    "is_comment": 5.0,
    "is_forward": 6.0,
    "is_hate": 7.0,
    "long_view": 0.5,
    "is_profile_enter": 4.5,
}


def _columns(user, video, time, tab, feedback, duration, shown_at_random) -> list[list]:
    day, hour = time // _DAY_MS, time % _DAY_MS // 3_600_000
    date = np.datetime64("2022-04-08") + day
    play = (duration[video] * np.where(feedback["is_click"], 0.8, 0.05)).astype(int)
    zeros = np.zeros(len(user), int)
    labels = [feedback[name].astype(int) for name in _BIASES]
    columns = [user, video, np.char.replace(date.astype(str), "-", ""), hour * 100, _START_MS + time, *labels[:7]]
    columns += [play, duration[video], zeros, zeros, labels[7], zeros + shown_at_random, tab]
    return [column.tolist() for column in columns]


def _user_line(random: np.random.Generator, number: int) -> str:
    counts = random.integers(0, 2000, 4).tolist()
    ranges = ("(0,10]", "[1,10)", "[1,5)", "730+")
    words = [
        str(number),
        random.choice(["full_active", "high_active", "UNKNOWN"]),
        "0",
        random.choice(["0", "-124"]),
        "1",
    ]
    for count, text in zip(counts, ranges, strict=True):
        words += [str(count), f'"{text}"' if "," in text else text]
    onehot = [str(random.integers(5)) for _ in range(18)]
    onehot[4] = random.choice(["", f"{random.integers(14)}.0"], p=[0.1, 0.9])
    return ",".join(words + onehot)


def _video_line(random: np.random.Generator, number: int, duration: int) -> str:
    tag = random.choice(["", "12", '"12,65"', '"3,4,39"'], p=[0.1, 0.5, 0.2, 0.2])
    music_type = random.choice(["", "4.0", "9.0"], p=[0.1, 0.5, 0.4])
    length = "" if number % 8 == 0 else f"{duration}.0"
    words = [
        number,
        number % 977,
        random.choice(["NORMAL", "AD"], p=[0.9, 0.1]),
        "2022-04-01",
        "ShortImport",
        "1.0",
        length,
    ]
    return ",".join(str(word) for word in (*words, "720.0", "1280.0", 6_000_000_000 + number % 499, music_type, tag))


def _write(folder, name: str, header: str, lines: list[str]) -> None:
    with open(f"{folder}/data/{name}.csv", "w", encoding="ascii", newline="\n") as file:
        file.write("\n".join([header, *lines]) + "\n")
