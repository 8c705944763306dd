"""Texts on which tokenizers differ, for the comparison with Lucene."""

# ruff: noqa: RUF001  (that characters look alike is the point)

from __future__ import annotations

import random
from collections.abc import Iterator

HARD = [
    "",
    " ",
    "a",
    "The quick brown fox jumped over the lazy dog's back.",
    "Can't won't o'clock rock'n'roll 'quoted' dogs' James's it\u2019s it\uff07s 's s's",
    "3.14 1,000,000.50 1.2.3 1, 2 .5 5. 1.a a.1 1:2 12:30 1;2 1/2 1'000 v1.2 2nd 0x1F 50% $9.99 1e-5",
    "a.b a..b a.b.c e.g. U.S.A. www.example.com user@example.com a:b a·b l·l a,b",
    "x_y _x x_ __init__ _ ___ _1 1_ _._ a_1_b _カ_ か_ 漢_ _ก ‿a a‿b",
    "AT&T C++ C# F# .NET #hashtag @name foo-bar foo/bar foo\\bar a+b 100% R&D",
    "état naïve co\u0308operate Ünïcode e\u0301te\u0301 \u0301a a\u0301\u0302 \u0301",
    "a\u00adb soft\u00adhyphen zero\u200bwidth word\u2060joiner zw\u200dj zwn\u200cj \ufeffbom",
    "İstanbul ISPARTA ıǰ ΣΊΣΥΦΟΣ ὈΔΥΣΣΕΎΣ STRASSE straße ẞ Ǆ ǅ Ω \u212a \u212b Ⅳ Ⓐ \U00010400",
    "ﬁne ﬃ ½ x² H₂O ㎏ №5 ™ © ℃ ª º",
    "שלום ב\"ה ג'ירף צה\"ל א\"א'א א'א א\" \"א ש'",
    "السلام عليكم كِتَاب ١٢٣٫٤٥ ۱۲۳ ـــ",
    "हिन्दी में क्षि ১২৩ தமிழ் తెలుగు ਪੰਜਾਬੀ",
    "ภาษาไทย ลาว ພາສາລາວ မြန်မာ ខ្មែរ กa a1ก ก1 กั้",
    "漢字 仮名交じり文 ひらがな カタカナ ｶﾀｶﾅ カ゛タ ー コンピューター 東京都",
    "ゝヽ々〆〇 ㈱ 한국어 조선말 ᄒᆞᆫ 한글a ﾡ",
    "漢\u0301字 か\u3099 カ\u3099 漢\ufe00 \U00020000\U0002a6d6 \ufa0e 〡 ⺀ ㄅㄆ",
    "中文ABC混合123 テスト_test テスト1 aカ カa 1カ １２３ ＡＢＣ ａ＿ｂ １．２",
    "😀 😀😀 👍🏽 🏽 a🏽 👩\u200d👩\u200d👧\u200d👦 👩\u200d 👩\u200d\u200d👧 \u200d👩 ❤️ ❤︎ ❤ ☎️ ☃",
    "🇩🇪 🇩🇪🇫🇷 🇩 🇩🇪🇫 a🇩🇪 🇩\u0301🇪",
    "🏴\U000e0067\U000e0062\U000e0065\U000e006e\U000e0067\U000e007f 🏴\U000e0067",
    "1️⃣ 1⃣ #️⃣ *⃣ # * 12⃣ a1⃣ 1️ ©️ ™️ 〰️ 〽️ ⃣ 0️⃣1️⃣",
    "👨🏿\u200d🦱 🏳️\u200d🌈 🏴\u200d☠️ 🧑🏻\u200d🤝\u200d🧑🏿 👁️\u200d🗨️ 🫠 🥲 🪿",
    "𝐇𝐞𝐥𝐥𝐨 𝟙𝟚𝟛 𐐀𐐨 𓀀𓀁 𒀀 \U0001f9ff \U000e0001 \U0010ffff \U00030000",
    "\u0000a\u0001b\u0007 tab\tnewline\nreturn\rvt\u000bff\u000cnel\u0085ls\u2028ps\u2029",
    "nbsp\u00a0x \u3000 \u2007 \u202f \u1680 \u180e \u001c\u001d\u001e\u001f",
    "\ud800 a\udc00b \udfff\ud800 c",
    "caresses ponies ties caress cats feed agreed disabled matting mating meeting milling",
    "messing meetings plastered bled motoring sing conflated troubled sized hopping tanned",
    "falling hissing fizzed failing filing relational conditional rational valenci hesitanci",
    "digitizer conformabli radicalli differentli vileli analogousli vietnamization",
    "predication operator feudalism decisiveness hopefulness callousness formaliti",
    "sensitiviti sensibiliti apologi geologi triplicate formative formalize electriciti",
    "electrical hopeful goodness revival allowance inference airliner gyroscopic adjustable",
    "defensible irritant replacement adjustment dependent adoption homologou communism",
    "activate angulariti homologous effective bowdlerize happy sky probate rate cease",
    "controll roll yes yyy ayes syzygy yed ying eyed saying flying dying skies by boy enjoyed",
    "toyyed sees is as us ss sss bus gas eed sed ing ed ies es s ies' ion sion tion ation e",
    "le ee ll alll ement ment ent al ou naïveness cafés überly x𐐨𐐨ed xa𐐨ing a𐐨s 𐐨s 漢s 123s",
    "3rds 1ing wordſ a an and are as at be but by for if in into is it no not of on or such",
    "that the their then there these they this to was will with And THE Not it's that's",
]
"""Each line holds one difficulty in several forms."""

ALPHABET = (
    "aZz09_'\".:,;#*-+ \n\t" "éßİΣς\u0301\u00ad\u200b\u200c\u200d\ufe0e\ufe0f\u2060"
    "אבּג׳״" "عﷺ٣٫" "हिंक्" "กัไລမខ" "漢字々〇か゛ゝカーｶﾞ゠한ᄒᆞㄱﾡ" "‿＿．＇１·\u2019\u2018\u2024\u2027"
    "😀❤☎©™ℹ〰〽👍👩🧑\U0001f3fb\U0001f3ff🇩🇪🏴"
    "\u20e3\U000e0067\U000e007f\U000e0001\U0001f02c"
    "𐐀𝟙𝐀\U00020000\U00030000"
    "\u00a0\u2003\u2028\u3000\u180e\u001f\u0085"
)
"""At least one character of every kind that any tokenizer tells apart."""


def random_texts(seed: int, short: int, long: int) -> Iterator[str]:
    """Texts of 1 to 12 arbitrary characters, and runs of one to three kinds that reach the length limit."""
    source = random.Random(seed)
    for _ in range(short):
        yield "".join(source.choices(ALPHABET, k=source.randint(1, 12)))
    for _ in range(long):
        few = source.choices(ALPHABET, k=source.randint(1, 3))
        yield "".join(source.choices(few, k=source.randint(240, 600)))


LENGTHS = [
    unit * count + tail
    for unit, counts in {
        "a": (254, 255, 256, 510, 511, 600), "ab ": (100,), "_": (253, 254, 255, 256, 600),
        "é": (255, 256),
        "𝐀": (126, 127, 128, 129, 300), "漢": (256,), "1": (255, 256), "😀\u200d": (84, 85, 86, 128),
        "_a": (127, 128, 300), "a.": (127, 128), "ก": (254, 256), "a\u0301": (127, 128),
        "\u200d": (254, 255, 300), "x_": (130,), ".": (300,), " ": (300,), "𐐀a": (85, 86),
    }.items()
    for count in counts
    for tail in ("", "a", "_a", "𝐀𝐀", ".a")
]
"""Around the limit of 255 UTF-16 units."""

PLACES = [
    "{}", "a{}a", "1{}1", "א{}א", "_{}_", "カ{}カ", "ก{}", "漢{}", "a.{}", "1,{}", "א\"{}", "\u200d{}",
    "👩{}👩", "👩\u200d{}", "#{}\u20e3", "{}\U0001f3fb", "🇩{}", "{}🇩", "{}\ufe0f", "😀\U000e0041{}",
]
"""Where one code point is put to learn its kind."""
BLOCK = 0x1000
ASSIGNED_BLOCKS = [*range(0x00000, 0x14000, BLOCK), *range(0x16000, 0x19000, BLOCK), 0x1B000,
                   *range(0x1D000, 0x21000, BLOCK), *range(0x2A000, 0x32000, BLOCK), 0xE0000, 0x10F000]
"""First code points of blocks that hold every kind; elsewhere are ideographs, private use or nothing."""


def block_text(first: int) -> str:
    """All places for each of the :data:`BLOCK` code points from ``first`` on."""
    return "\n".join(place.format(chr(code)) for code in range(first, first + BLOCK) for place in PLACES)
