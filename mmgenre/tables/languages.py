"""Languages by their ISO 639-1 codes."""

import re

import pycountry

# IMDb's language names that differ from ISO 639.
_ISO_NAMES = {
    "cantonese": "Chinese",
    "farsi": "Persian",
    "flemish": "Dutch",
    "greek": "Modern Greek (1453-)",
    "hokkien": "Chinese",
    "malay": "Malay (macrolanguage)",
    "mandarin": "Chinese",
    "nepali": "Nepali (macrolanguage)",
    "punjabi": "Panjabi",
    "swahili": "Swahili (macrolanguage)",
}
_SEPARATORS = re.compile(r"[,;|/]")
_REGION = re.compile(r"([A-Za-z]{2,3})[-_][A-Za-z]{2,4}")


def language_code(names: str | None) -> str | None:
    """ISO 639-1 code of the first language in a list: en for "English, French", "eng" or "en-US"; None without one."""
    name = _SEPARATORS.split(names or "")[0].strip()
    if region := _REGION.fullmatch(name):
        name = region[1]
    # `lookup` alone takes "en" for the name of a language of Vietnam.
    if len(name) == 2 and (known := pycountry.languages.get(alpha_2=name.lower())):
        return known.alpha_2
    try:
        language = pycountry.languages.lookup(_ISO_NAMES.get(name.lower(), name))
    except LookupError:
        return None
    return getattr(language, "alpha_2", None)
