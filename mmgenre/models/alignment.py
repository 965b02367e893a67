"""Normalized text that remembers which character of the original each of its characters came from."""

import re
import unicodedata
from typing import NamedTuple

# Character offsets: start, and one past the end.
Span = tuple[int, int]


class AlignedText(NamedTuple):
    """Normalized text with offsets into the original.

    Args:
        text: the normalized text.
        origins: for each character of `text`, its index in `original`.
        original: the text before normalization.
    """

    text: str
    origins: list[int]
    original: str

    @classmethod
    def lower_case(cls, original: str) -> "AlignedText":
        """The text in lower case. `str.lower` turns some characters into two."""
        origins = [index for index, letter in enumerate(original) for _ in letter.lower()]
        return cls(original.lower(), origins, original)

    def without(self, pattern: str) -> "AlignedText":
        """The text with every match of the pattern removed."""
        kept: list[int] = []
        end = 0
        for match in re.finditer(pattern, self.text):
            kept += range(end, match.start())
            end = match.end()
        kept += range(end, len(self.text))
        text = "".join(self.text[index] for index in kept)
        return AlignedText(text, [self.origins[index] for index in kept], self.original)

    def decomposed(self) -> "AlignedText":
        """The text in Unicode's NFKD form, without accents."""
        letters, origins = [], []
        for letter, origin in zip(self.text, self.origins, strict=True):
            for part in unicodedata.normalize("NFKD", letter):
                if not unicodedata.combining(part):
                    letters.append(part)
                    origins.append(origin)
        return AlignedText("".join(letters), origins, self.original)

    def words(self, pattern: str) -> list[tuple[str, Span]]:
        """The pattern's matches with their spans in the original; a span includes the accents on its last letter."""
        return [(match.group(), self._span(match.start(), match.end())) for match in re.finditer(pattern, self.text)]

    def _span(self, start: int, end: int) -> Span:
        last = self.origins[end - 1] + 1
        while last < len(self.original) and unicodedata.combining(self.original[last]):
            last += 1
        return self.origins[start], last
