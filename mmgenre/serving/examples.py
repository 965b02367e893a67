"""Invented example movies for the demo page; their plots were written for this project, their posters are generated."""

from dataclasses import dataclass
from functools import cached_property

from mmgenre.sandbox import posters

# Pixels. About the input size of the image models, and small because the page embeds them.
_POSTER_SIZE = (160, 240)


@dataclass(frozen=True)
class Example:
    """An invented movie.

    Args:
        title: its title.
        plot: a few sentences.
        genres: the genres that its poster suggests.
    """

    title: str
    plot: str
    genres: tuple[str, ...]

    @cached_property
    def poster(self) -> bytes:
        """A JPEG of a few kilobytes, always the same."""
        return posters.draw(self.title, self.genres, _POSTER_SIZE)


EXAMPLES = (
    Example(
        "The Quiet Ferry",
        "After her husband drowns, Ida takes over the last ferry between two islands that no longer speak to each "
        "other. A schoolteacher who crosses with her every evening leaves letters under the bench, and what begins as "
        "a way to bear the winter becomes the first love she dares to have since the funeral. When the bridge is "
        "finished in spring, both of them must decide which shore is home.",
        ("Drama", "Romance"),
    ),
    Example(
        "Nine Minutes of Static",
        "A maintenance crew on a mining station beyond Neptune loses contact with Earth for nine minutes. When the "
        "radio comes back, the voices on it belong to people who died years ago, and they know what the crew is about "
        "to do. As the oxygen runs down, engineer Sato suspects that something in the ice has learned to imitate them, "
        "and that one of the four in the airlock is no longer human.",
        ("Sci-Fi", "Horror"),
    ),
    Example(
        "Honest Work",
        "Three retired safe-crackers are hired to test the alarm of the bank that once sent them to prison. The "
        "manager wants them to fail; a detective two weeks short of her pension is sure that they will not. Between "
        "bad knees, a hearing aid that picks up the police radio and a getaway driver who must be home by nine, the "
        "perfect robbery turns into the most cheerful night that any of them can remember.",
        ("Comedy", "Crime"),
    ),
    Example(
        "The Cartographer's Daughter",
        "With half of her father's map sewn into her coat, Amra joins a caravan over a pass that no one has crossed "
        "in a hundred years. Bandits want the map, the emperor's riders want her, and the mountain wants everybody. "
        "She fights her way through an avalanche, a burning monastery and a duel on a rope bridge to find out what "
        "he drew at its edge, and why he never came back for it.",
        ("Action", "Adventure"),
    ),
    Example(
        "Third Floor, No Number",
        "A court interpreter recognises the voice of a witness: it is the man who calls her every night and says "
        "nothing. Nobody believes her, the recording disappears, and the key to her flat turns up in evidence. While "
        "the trial of a murdered prosecutor goes on around her, she has two days to find out who moved into the empty "
        "flat above hers, before the calls stop.",
        ("Thriller", "Crime"),
    ),
)
