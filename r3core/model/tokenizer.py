"""Text to ids and back, by the checkpoint's tokenizer.json (r3-model: section 2).

User text never becomes a special token; ids past the tokenizer decode to nothing.
"""

from __future__ import annotations

import bisect
import codecs
import re
from functools import lru_cache
from pathlib import Path

from tokenizers import Tokenizer as HFTokenizer

from r3core.errors import CheckpointError


class Tokenizer:
    """The ids of a checkpoint. `im_start` and `im_end` stand around every text, `vision_*` around every picture."""

    def __init__(self, path: Path) -> None:
        try:
            self._plain = HFTokenizer.from_file(str(path))
            self._parsing = HFTokenizer.from_file(str(path))
        except Exception as error:  # the library raises bare Exception
            raise CheckpointError(f"{path} cannot be read as a tokenizer: {error}") from error
        self._plain.encode_special_tokens = True
        names = ("<|im_start|>", "<|im_end|>", "<|vision_start|>", "<|vision_end|>")
        found: dict[str, int | None] = {name: self._plain.token_to_id(name) for name in names}
        missing = [name for name, id_ in found.items() if id_ is None]
        if missing:
            raise CheckpointError(f"{path} lacks {', '.join(missing)}; take tokenizer.json from the BAGEL files")
        self.im_start, self.im_end, self.vision_start, self.vision_end = (
            id_ for id_ in found.values() if id_ is not None
        )
        self._characters = _byte_of_character()
        self.bytes_of = lru_cache(maxsize=None)(self._bytes_of)

    @property
    def largest(self) -> int:
        """The highest id."""
        return max(self._plain.get_vocab(with_added_tokens=True).values())

    def encode(self, text: str) -> list[int]:
        """The ids of a text, special strings in it taken as plain characters."""
        ids: list[int] = self._plain.encode(text, add_special_tokens=False).ids
        return ids

    def encode_parsing_specials(self, text: str) -> list[int]:
        """As the reference encodes: special strings become special ids. For replaying its numbers only."""
        ids: list[int] = self._parsing.encode(text, add_special_tokens=False).ids
        return ids

    def segment(self, text: str) -> list[int]:
        """A text segment as the model sees it: start, ids, end."""
        return [self.im_start, *self.encode(text), self.im_end]

    def words(self, text: str) -> tuple[tuple[str, ...], tuple[int, ...]]:
        """A text's words, parted by white space, and for each token of `encode` the number of its word.

        A token is of the word that holds its last character; one of white space alone is of the word that follows.
        """
        found = list(re.finditer(r"\S+", text))
        ends = [word.end() for word in found]
        offsets: list[tuple[int, int]] = self._plain.encode(text, add_special_tokens=False).offsets
        lasts = (start + max(len(text[start:end].rstrip()) - 1, 0) for start, end in offsets)
        owners = (bisect.bisect_right(ends, last) for last in lasts)
        return tuple(word[0] for word in found), tuple(min(owner, len(found) - 1) for owner in owners)

    def decode(self, ids: list[int]) -> str:
        """The text of ids, special tokens kept, invalid UTF-8 as U+FFFD, nothing cleaned up."""
        text: str = self._plain.decode(ids, skip_special_tokens=False)
        return text

    def _bytes_of(self, id_: int) -> bytes:
        """The bytes that an id stands for; none past the tokenizer."""
        token: str | None = self._plain.id_to_token(id_)
        if token is None:
            return b""
        try:
            return bytes(self._characters[c] for c in token)
        except KeyError:  # an added token with characters of its own
            return token.encode()


class TextStream:
    """The text of a decoded segment as it grows: pieces that, joined, are the whole text.

    `whole` is what precedes the first end marker and a second start marker, as the reference cuts it. A piece never
    ends inside a character: bytes that make none yet wait for the next token.
    """

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        self._utf8 = codecs.getincrementaldecoder("utf-8")("replace")
        self._shown: list[str] = []
        self._cut = False

    def push(self, id_: int) -> str:
        """Take in one more free token and give what can be shown now."""
        if self._cut or id_ in (self._tokenizer.im_start, self._tokenizer.im_end):
            self._cut = True
            return ""
        return self._show(self._utf8.decode(self._tokenizer.bytes_of(id_)))

    def finish(self) -> str:
        """The rest, where the text ended inside a character."""
        return self._show(self._utf8.decode(b"", final=True))

    @property
    def whole(self) -> str:
        """Everything shown so far."""
        return "".join(self._shown)

    def _show(self, text: str) -> str:
        self._shown.append(text)
        return text


def _byte_of_character() -> dict[str, int]:
    """The bytes that a byte-level BPE's vocabulary writes as characters: printable Latin-1 ones stand for themselves,
    the rest, in order, for the characters from U+0100 on.
    """
    themselves = {*range(ord("!"), ord("~") + 1), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
    others = [b for b in range(256) if b not in themselves]
    return {chr(b): b for b in themselves} | {chr(0x100 + i): b for i, b in enumerate(others)}
