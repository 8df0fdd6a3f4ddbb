"""Words in the names of columns, and what such a column usually is."""

import re


def _set(text: str) -> frozenset[str]:
    return frozenset(text.split())


_SPLIT = re.compile(r"[^A-Za-z0-9]+|(?<=[a-z0-9])(?=[A-Z])")

EVENTS = _set(
    "click clicked clicks clk ctr cart carted add2cart buy bought purchase purchased order ordered pay paid conversion convert "
    "converted conv cvr ctcvr install installed like liked love loved follow followed share shared comment commented favourite "
    "favorite favourited favorited forward forwarded hate dislike disliked subscribe subscribed signup registered complete "
    "completed finish finished view viewed read watched skip skipped effective valid long label target y"
)
"""In the name of a column of 0 and 1: something that a user did."""
AMOUNTS = _set("watch play playing dwell stay spend spent gmv revenue ltv pages pageviews")
"""In the name of a number that measures what a user did."""
MAYBE_AMOUNTS = AMOUNTS | _set("stars views duration amount value paid")
"""The same, if the values agree: a video has a duration too."""
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
    return [word.lower() for word in _SPLIT.split(name) if word]


def is_amount(name: str, surely: bool) -> bool:
    """Whether a name is that of an amount that a user spent, watched or earned; not `surely`: if the values agree."""
    found = words(name)
    known = AMOUNTS if surely else MAYBE_AMOUNTS
    return bool(known & {*found, "".join(found)}) and not HISTORY & set(found)


def is_user(name: str) -> bool:
    """Whether a name is that of the user's ID: one of the words for it, alone or with `id`."""
    found = [word for word in words(name) if word not in _KEYS]
    return len(found) == 1 and found[0] in USERS and (found[0] in USERS[:_ALONE] or found != words(name))


def is_request(name: str) -> bool:
    """Whether a name is that of the ID of a request or of one impression."""
    found = words(name)
    return "".join(found) in REQUESTS or (len(found) > 1 and found[-1] in ("id", "key") and found[0] in REQUESTS)


def user_rank(name: str) -> int:
    """Smaller for a likelier name of the user."""
    found = words(name)
    return next(n for n, word in enumerate(USERS) if word in found or word == "".join(found))
