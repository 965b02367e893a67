"""Texts that are changed before they are read, with where each of their characters came from."""

import re
import unicodedata
from typing import NamedTuple

# Where something stands: its first character, and the one after its last.
Span = tuple[int, int]


class Aligned(NamedTuple):
    """A text made of another one.

    Args:
        text: as it is read.
        origins: of each of its characters, the place in the original that it came from.
        original: the text that it was made of.
    """

    text: str
    origins: list[int]
    original: str

    @classmethod
    def lower_case(cls, original: str) -> "Aligned":
        """As `str.lower` makes it, which makes two characters of some."""
        origins = [place for place, letter in enumerate(original) for _ in letter.lower()]
        return cls(original.lower(), origins, original)

    def without(self, pattern: str) -> "Aligned":
        """Less what the pattern matches."""
        kept: list[int] = []
        end = 0
        for match in re.finditer(pattern, self.text):
            kept += range(end, match.start())
            end = match.end()
        return self._picked([*kept, *range(end, len(self.text))])

    def decomposed(self) -> "Aligned":
        """In Unicode's NFKD form, without the accents: what compounds are made of stands side by side."""
        letters, origins = [], []
        for letter, origin in zip(self.text, self.origins, strict=True):
            for part in unicodedata.normalize("NFKD", letter):
                if not unicodedata.combining(part):
                    letters.append(part)
                    origins.append(origin)
        return Aligned("".join(letters), origins, self.original)

    def words(self, pattern: str) -> list[tuple[str, Span]]:
        """What the pattern matches, and where it stands in the original, with the accents on its last letter."""
        return [(match.group(), self._span(match.start(), match.end())) for match in re.finditer(pattern, self.text)]

    def _picked(self, places: list[int]) -> "Aligned":
        text = "".join(self.text[place] for place in places)
        return Aligned(text, [self.origins[place] for place in places], self.original)

    def _span(self, start: int, end: int) -> Span:
        last = self.origins[end - 1] + 1
        while last < len(self.original) and unicodedata.combining(self.original[last]):
            last += 1
        return self.origins[start], last
