"""How a showcase is judged: by the true probabilities of the synthetic logs, never by drawn labels."""

import numpy as np

Columns = dict[str, np.ndarray]
STEPS = ("click", "cart", "buy")
ACTIONS = ("like", "favourite", "comment", "share", "follow")


def expected_auc(truth: np.ndarray, scores: np.ndarray, rows: np.ndarray | None = None) -> float:
    """The AUC of the scores expected over labels drawn with the probabilities `truth`: every row is both, in part."""
    if rows is not None:
        truth, scores = truth[rows], scores[rows]
    truth = truth.astype(np.float64)
    _, place = np.unique(scores, return_inverse=True)
    positive, negative = np.bincount(place, truth), np.bincount(place, 1 - truth)
    below = np.cumsum(negative) - negative / 2
    return float((positive @ below) / (positive.sum() * negative.sum()))


def judge_funnel(columns: Columns, rows: np.ndarray | None = None) -> dict[str, float]:
    """AUC of every step, its gap to the best achievable, and the mean gap."""
    found: dict[str, float] = {}
    for task in STEPS:
        truth = columns[f"p_{task}"]
        found[f"{task} AUC"] = expected_auc(truth, columns[task], rows)
        found[f"{task} gap"] = expected_auc(truth, truth, rows) - found[f"{task} AUC"]
    found["mean gap"] = sum(found[f"{task} gap"] for task in STEPS) / len(STEPS)
    return found


def judge_conversion(columns: Columns) -> dict[str, float]:
    """P(buy | click) on all impressions, on the clicked ones, and on the half of them that is least likely clicked."""
    truth = columns["p_buy_if_clicked"] if "p_buy_if_clicked" in columns else columns["p_buy"] / columns["p_click"]
    score = columns["cvr" if "cvr" in columns else "conversion"]
    places = {
        "all": np.ones(len(truth), bool),
        "clicked": columns["click"] == 1,
        "rarely clicked": columns["p_click"] < np.median(columns["p_click"]),
    }
    found: dict[str, float] = {}
    for place, rows in places.items():
        found[f"AUC, {place}"] = expected_auc(truth, score, rows)
        found[f"best AUC, {place}"] = expected_auc(truth, truth, rows)
        found[f"calibration, {place}"] = float(score[rows].sum() / truth[rows].sum())
    return found


def judge_position(columns: Columns) -> dict[str, float]:
    """Clicks, against their probability had the item been shown first: over all scenarios, and the mean of each alone."""
    truth, random = columns["p_click_first"], columns["random_order"].astype(bool)
    score, scenario = columns["click"], columns["scenario"]
    within = [expected_auc(truth, score, scenario == value) for value in np.unique(scenario)]
    return {
        "AUC": expected_auc(truth, score),
        "AUC, random order": expected_auc(truth, score, random),
        "best AUC": expected_auc(truth, truth),
        "AUC within a scenario": sum(within) / len(within),
        "AUC as logged": expected_auc(columns["p_click"], score),
    }


def judge_order(columns: Columns) -> dict[str, float]:
    found = judge_funnel(columns)
    wrong = (columns["buy"] > columns["cart"]) | (columns["cart"] > columns["click"])
    return {**found, "order violations": float(wrong.mean())}


def judge_preferences(columns: Columns) -> dict[str, float]:
    """Gaps of tasks that predict a step, or an action, given the one before: frequent ones, rare ones, and all."""
    before = {"cart": "p_click", "buy": "p_cart", **dict.fromkeys(ACTIONS, "p_click")}
    gaps = {}
    for task in (*STEPS, *ACTIONS):
        truth = columns[f"p_{task}"] / columns[before[task]] if task in before else columns[f"p_{task}"]
        gaps[task] = expected_auc(truth, truth) - expected_auc(truth, columns[task])
    found = {f"{task} gap": gap for task, gap in gaps.items()}
    found["mean gap, steps"] = sum(gaps[task] for task in STEPS) / len(STEPS)
    found["mean gap, actions"] = sum(gaps[task] for task in ACTIONS) / len(ACTIONS)
    return {**found, "mean gap": sum(gaps.values()) / len(gaps)}


def judge_scenarios(columns: Columns) -> dict[str, float]:
    """Gaps within a scenario: means over all of them, over the smaller half, and in the largest, `s0`."""
    names = sorted(np.unique(columns["scenario"]), key=lambda name: int(name[1:]))
    gaps = []
    for name in names:
        found = judge_funnel(columns, columns["scenario"] == name)
        gaps.append([found[f"{task} gap"] for task in STEPS])
    mean = np.mean(gaps, axis=0)
    return {
        **{f"{task} gap": float(gap) for task, gap in zip(STEPS, mean, strict=True)},
        "mean gap": float(mean.mean()),
        "mean gap, smaller half": float(np.mean(gaps[len(gaps) // 2 :])),
        "mean gap, largest": float(np.mean(gaps[0])),
    }
