"""Look for stop words in a text that grows."""

from collections.abc import Collection, Sequence


class StopWords:
    """Finds the first stop word in an answer's text, and how much of the text cannot begin one.

    Answers are shown without special tokens. Stop words that have the text of one are looked for in the text with
    special tokens, so that `<|im_end|>` stops where the token comes.

    Args:
        words: texts, none of them empty.
        special: texts of the special tokens.
    """

    def __init__(self, words: Sequence[str], special: Collection[str]):
        self._words = words
        self._with_special = any(text and text in word for word in words for text in special)
        self._longest = max(map(len, words), default=0)
        self._text = ""
        """The end of the text that is searched, enough for any stop word to be completed."""
        self._special: list[tuple[int, int]] = []
        """Where special tokens stand in `_text`, and their lengths."""
        self._shown = 0
        """Characters of the answer."""

    def push(self, piece: str, special: str = "", *, may_stop: bool = True) -> int | None:
        """Add what a token is.

        Args:
            piece: what it adds to the answer.
            special: its text, if it is a special token.
            may_stop: whether a stop word may end here.

        Returns:
            the characters of the answer before the first stop word, if this token completes one.
        """
        if not self._words:
            return None
        before = len(self._text)
        self._text += piece
        self._shown += len(piece)
        if special and self._with_special:
            self._special.append((len(self._text), len(special)))
            self._text += special
        found = [at for word in self._words if (at := self._text.find(word, max(0, before - len(word) + 1))) >= 0]
        if found and may_stop:
            return self._shown_before(min(found))
        if len(self._text) > 4 * self._longest:
            self._forget(len(self._text) - self._longest)
        return None

    @property
    def certain(self) -> int:
        """The characters of the answer that belong to no stop word, whatever comes."""
        most = 0
        for word in self._words:
            at = self._text.find(word[0], max(0, len(self._text) - len(word) + 1))
            while at >= 0 and not word.startswith(self._text[at:]):
                at = self._text.find(word[0], at + 1)
            if at >= 0:
                most = max(most, len(self._text) - at)
        return self._shown_before(len(self._text) - most)

    def _shown_before(self, position: int) -> int:
        """Return how many characters of the answer there are before a position in `_text`."""
        later = len(self._text) - position
        hidden = sum(min(length, at + length - position) for at, length in self._special if at + length > position)
        return self._shown - (later - hidden)

    def _forget(self, count: int) -> None:
        self._text = self._text[count:]
        self._special = [(at - count, length) for at, length in self._special if at >= count]
