"""Words of texts in any language."""

import pyarrow as pa
import pyarrow.compute as pc

# Scripts that do not separate words by spaces. Two characters are about a word of Japanese or Chinese.
_UNSPACED = r"\p{Han}\p{Hiragana}\p{Katakana}\p{Thai}\p{Lao}\p{Khmer}\p{Myanmar}\x{30FC}"
# Their punctuation, which does not count as a word: CJK symbols and full-width ASCII.
_PUNCTUATION = r"\x{3000}-\x{303F}\x{30FB}\x{FF00}-\x{FF0F}\x{FF1A}-\x{FF20}\x{FF3B}-\x{FF40}\x{FF5B}-\x{FF65}"
_WORD = rf"[{_UNSPACED}]{{1,2}}|[^\s{_UNSPACED}{_PUNCTUATION}]+"


def count_words(texts: pa.ChunkedArray | pc.Expression) -> pa.ChunkedArray | pc.Expression:
    """Number of words in each text; null for null.

    Words are what spaces separate; in scripts without spaces, two characters count as one.
    """
    return pc.count_substring_regex(texts, pattern=_WORD)
