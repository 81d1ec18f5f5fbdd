"""The canary texts that a witness is measured on.

Chosen so that whatever changes in a model shows in some of them: texts beyond 64, 128, 256 and 512
tokens for the truncation, mixed case and accents for the normaliser of the tokenizer, white space,
code, other scripts, and texts that are almost empty. They never change: a recorded witness means
nothing for other texts. A new set gets a new number and a new digest.
"""

from __future__ import annotations

import hashlib
from typing import NamedTuple


class Canary(NamedTuple):
    """One text. ``sentinel`` marks the few that are asked between two windows of batches."""

    name: str
    text: str
    sentinel: bool = False


_SENTENCES = (
    "The harbour master counted eleven fishing boats before the fog came down on the breakwater.",
    "A sourdough starter needs flour, water and a patient cook who feeds it every morning.",
    "Most of the light that reaches a telescope left its star before the observer was born.",
    "The court adjourned after the witness withdrew her statement about the missing ledger.",
    "Iron rusts because oxygen and water take electrons from the metal faster than paint can stop.",
    "He tuned the violin a quarter tone flat, as the old manuscript from Cremona asked for.",
    "Rain fell on the northern slopes for nine days, and the river carried away two bridges.",
    "Vaccines teach the immune system to recognise a pathogen that it has never met before.",
    "The accountant found the error on page forty: the interest had been compounded twice.",
    "Migrating cranes follow the same valley each autumn and rest on the flooded rice fields.",
    "Our train stopped between two stations while the engineers replaced a broken signal relay.",
    "Queries that scan the whole table become slow long before anybody thinks of an index.",
    "She painted the door green in spring and regretted it as soon as the roses came out.",
    "A glacier moves downhill under its own weight and grinds the bedrock below it to flour.",
    "The referee blew the whistle twice, pointed to the centre circle and ended the match.",
    "Before coffee reached Europe, beer soup was the usual breakfast in many northern towns.",
)


def _passage(first: int, words: int) -> str:
    """About ``words`` words of sentences, beginning with the one of that number."""
    chosen: list[str] = []
    while len(chosen) < words:
        chosen += _SENTENCES[first % len(_SENTENCES)].split()
        first += 5  # prime to their number: every sentence comes before one comes again
    return " ".join(chosen[:words])


_CODE = '''def merge(left: list[int], right: list[int]) -> list[int]:
    """Merge two sorted lists."""
    out, i, j = [], 0, 0
    while i < len(left) and j < len(right):
        if left[i] <= right[j]:
            out.append(left[i]); i += 1
        else:
            out.append(right[j]); j += 1
    return out + left[i:] + right[j:]
'''

CANARIES: tuple[Canary, ...] = (
    Canary("sentence-1", _SENTENCES[0], sentinel=True),
    Canary("sentence-2", _SENTENCES[2]),
    Canary("sentence-3", _SENTENCES[7]),
    Canary("sentence-4", _SENTENCES[11]),
    Canary("question-1", "how long does a sourdough starter keep in the fridge?", sentinel=True),
    Canary("question-2", "Which vaccine side effects should be reported to a doctor?"),
    Canary("keywords", "postgres slow query index scan explain analyze"),
    Canary("title", "Annual Report of the Harbour Commission, Volume II"),
    Canary("paragraph-1", " ".join(_SENTENCES[:3])),
    Canary("paragraph-2", " ".join(_SENTENCES[8:11])),
    Canary("long-64-a", _passage(1, 75), sentinel=True),
    Canary("long-64-b", _passage(4, 90)),
    Canary("long-128-a", _passage(2, 150), sentinel=True),
    Canary("long-128-b", _passage(9, 190)),
    Canary("long-256-a", _passage(3, 300), sentinel=True),
    Canary("long-256-b", _passage(12, 380)),
    Canary("long-512-a", _passage(6, 640), sentinel=True),
    Canary("long-512-b", _passage(15, 760)),
    Canary("upper-case", _SENTENCES[5].upper()),
    Canary("lower-case", _SENTENCES[5].lower()),
    Canary("mixed-case", "tHe QuIcK bRoWn FoX JuMpS oVeR tHe LaZy DoG", sentinel=True),
    Canary(
        "camel-case", "getUserProfileById parseHTTPResponse XMLHttpRequest iPhone eBay McDonald"
    ),
    Canary("accents", "naïve café façade jalapeño Zürich Ångström crème brûlée señor coöperate"),
    Canary("accents-decomposed", "nai\u0308ve cafe\u0301 fac\u0327ade jalapen\u0303o Zu\u0308rich"),
    Canary("ligatures", "ﬁnal ﬂight of the ﬃ ligature, ½ cup, №7, ①②③, ﬀ"),
    Canary("full-width", "ＦＵＬＬ ｗｉｄｔｈ ｔｅｘｔ １２３"),
    Canary("white-space", "  spaces\t\ttabs\n\n\nnew lines  \r\n and a \u00a0 no-break space   "),
    Canary("zero-width", "zero\u200bwidth soft\u00adhyphen joiner\u200d and mark\ufeff"),
    Canary(
        "punctuation", "Wait -- what?! (No... really?) [yes]; {maybe}: «perhaps» “so”, ‘it’ seems…"
    ),
    Canary("numbers", "3.14159 1,000,000 -273.15 0x1F 1e-9 42nd 1/3 50% 2024-02-29T23:59:60Z"),
    Canary("code", _CODE, sentinel=True),
    Canary("json", '{"id": 17, "tags": ["a", "b"], "nested": {"ok": true, "none": null}}'),
    Canary("sql", "SELECT d.id, COUNT(*) FROM docs AS d WHERE d.lang = 'en' GROUP BY d.id;"),
    Canary("url", "https://example.org/search?q=embedding+drift&lang=en#results"),
    Canary("markup", "<p>The <b>bold</b> claim &amp; its <a href='/x'>source</a></p>"),
    Canary("russian", "Туман опустился на гавань, и лодки не вышли в море.", sentinel=True),
    Canary("greek", "Η ομίχλη σκέπασε το λιμάνι πριν από το ξημέρωμα."),
    Canary("arabic", "غطى الضباب الميناء قبل الفجر ولم تخرج القوارب."),
    Canary("hebrew", "הערפל כיסה את הנמל לפני הזריחה."),
    Canary("hindi", "कोहरे ने भोर से पहले बंदरगाह को ढक लिया।"),
    Canary("chinese", "黎明前大雾笼罩了港口，渔船没有出海。"),
    Canary("japanese", "夜明け前に霧が港を覆い、漁船は出港しなかった。"),
    Canary("korean", "새벽이 오기 전에 안개가 항구를 덮었다."),
    Canary("thai", "หมอกปกคลุมท่าเรือก่อนรุ่งสาง"),
    Canary("emoji", "🚢🌫️⚓ boats 👩🏽‍🔬 science 🇫🇷 flags"),
    Canary("one-letter", "a"),
    Canary("one-digit", "7"),
    Canary("one-mark", "."),
)

SENTINELS: tuple[int, ...] = tuple(i for i, canary in enumerate(CANARIES) if canary.sentinel)
"""Places of the sentinels among the canaries."""


def canary_digest() -> str:
    """``sha256:…`` of the set: a witness of other texts cannot be compared with."""
    state = hashlib.sha256(b"embedmigrate/canaries/1\n")
    for canary in CANARIES:
        state.update(f"{canary.name}\0{canary.text}\0".encode())
    return f"sha256:{state.hexdigest()}"
