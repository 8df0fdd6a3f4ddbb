"""Words in the names of columns, and what such a column usually is."""

import re


def _set(text: str) -> frozenset[str]:
    return frozenset(text.split())


_SPLIT = re.compile(r"[\W_]+|(?<=[a-z0-9])(?=[A-Z])")

EVENTS = _set(
    "click clicked clicks clk ctr cart carted add2cart buy bought purchase purchased order ordered pay paid conversion convert "
    "converted conv cvr ctcvr install installed like liked love loved follow followed share shared comment commented favourite "
    "favorite favourited favorited forward forwarded hate dislike disliked subscribe subscribed signup registered complete "
    "completed finish finished view viewed read watched skip skipped label target y"
)
"""The last word of the name of a column of 0 and 1: something that a user did."""
_AROUND_EVENTS = _set("is has label flag target y ind")
"""Words before and after it."""
AMOUNTS = _set("watch play playing dwell stay spend spent gmv revenue ltv pages pageviews")
"""The last word of the name of a number that measures what a user did."""
MAYBE_AMOUNTS = AMOUNTS | _set("stars views duration amount value paid")
"""The same, if the values agree: a video has a duration too."""
_UNITS = _set("time duration ms s sec secs second seconds minutes amount usd eur")
"""Words after it."""
HISTORY = _set(
    "7d 14d 30d 60d 90d 180d 1d 3d 24h avg mean median std sum total cnt count num number rate ratio hist history past prev "
    "previous last recent freq frequency max min score prior random per"
)
"""In the name of a number that is known before the impression."""
USERS = ("user", "uid", "userid", "member", "customer", "visitor", "viewer", "buyer", "account", "cookie", "device")
"""Words for the user, the likeliest first."""
_ALONE = 3
"""The others name the user only with `id`: a `device` may be a phone."""
_KEYS = frozenset({"id", "key", "hash", "no"})
REQUESTS = _set("request req requestid session sessionid impression imp pv query search log trace page")
SCENARIOS = _set("scenario scene tab channel surface placement domain")
POSITIONS = _set("position pos rank slot")
TIMES = _set("time timestamp ts datetime date unixtime")
_OTHER_TIMES = _set(
    "birth born upload uploaded publish published create created register registered signup first last update updated install "
    "release released"
)
"""With them, the time of something else than the impression."""
WEIGHTS = _set("weight sample_weight row_weight importance_weight")
SEQUENCES = _set(
    "hist history histories seq sequence recent past last clicked bought viewed liked watched behavior behaviour"
)
PREDICTIONS = _set("p prob probability pred predicted prediction pctr pcvr pctcvr truth")
FLAGS = _set("mature observed final settled")
CODES = _set(
    "id ids code type category cat cate brand seller shop store item movie video music author creator ad adgroup campaign "
    "creative advertiser city region country province state zip gender sex device os model app version hour weekday dow month "
    "segment cluster class group level bucket lang language occupation industry carrier slot tag"
)
"""In the name of an integer that names something."""
QUANTITIES = _set(
    "age price cost bid amount days hours minutes seconds duration length len size width height rating ratings reviews visits "
    "temperature distance salary income year years population"
)
"""In the name of an integer that measures something."""


def words(name: str) -> list[str]:
    """The words of a column's name, in lower case: `userClicks_30d` is user, clicks, 30d."""
    return [word.lower() for word in _SPLIT.split(name) if word] or [name.lower()]


def is_amount(name: str, surely: bool) -> bool:
    """Whether a name is that of an amount that a user spent, watched or earned; not `surely`: if the values agree."""
    found = words(name)
    while len(found) > 1 and found[-1] in _UNITS:
        found.pop()
    known = AMOUNTS if surely else MAYBE_AMOUNTS
    return bool(known & {found[-1], "".join(found)}) and not HISTORY & set(words(name))


def is_event(name: str) -> bool:
    """Whether a name says that a user did something: `click`, `is_like`, `long_view`, `buy_label`."""
    found = words(name)
    while len(found) > 1 and found[0] in _AROUND_EVENTS:
        found.pop(0)
    while len(found) > 1 and found[-1] in _AROUND_EVENTS:
        found.pop()
    return found[-1] in EVENTS and not HISTORY & set(found)


def is_other_time(name: str) -> bool:
    """Whether a name is that of a time, but not of the impression's: `birth_date`, `click_time`."""
    return bool((_OTHER_TIMES | EVENTS) & set(words(name)))


def may_be_time(name: str) -> bool:
    """Whether a name is that of a time, of the impression or of something else."""
    return words(name)[-1] in TIMES


def time_rank(name: str) -> int:
    """Smaller for a likelier name of the impression's time."""
    found = set(words(name))
    return 0 if found & {"timestamp", "ts"} else 1 if found & TIMES else 2


def is_row_key(name: str) -> bool:
    """Whether a name is that of a key."""
    return bool({"id", "key", "uuid", "guid", "hash", "index"} & set(words(name)))


def is_user(name: str) -> bool:
    """Whether a name is that of the user's ID: one of the words for it, alone or with `id`."""
    found = [word for word in words(name) if word not in _KEYS]
    return len(found) == 1 and found[0] in USERS and (found[0] in USERS[:_ALONE] or found != words(name))


def is_request(name: str) -> bool:
    """Whether a name is that of the ID of a request or of one impression."""
    found = words(name)
    return "".join(found) in REQUESTS or (len(found) > 1 and found[-1] in ("id", "key") and found[0] in REQUESTS)


def request_rank(name: str) -> int:
    """Smaller for a likelier name of the request."""
    return 0 if {"request", "req", "requestid"} & set(words(name)) else 1


def user_rank(name: str) -> int:
    """Smaller for a likelier name of the user."""
    found = words(name)
    return next(n for n, word in enumerate(USERS) if word in found or word == "".join(found))
