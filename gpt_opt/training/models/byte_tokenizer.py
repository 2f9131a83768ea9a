"""The embedded tokenizer: a token a byte, made on the spot, in Hugging Face format."""

from __future__ import annotations

from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

END_OF_TEXT = "<|endoftext|>"
PADDING = "<|pad|>"
VOCAB_SIZE = 258
"""256 bytes, the end of a text, and padding."""


def byte_tokenizer() -> PreTrainedTokenizerFast:
    """Builds a tokenizer that needs no training and no download.

    Token ids 0 to 255 are the bytes of the UTF-8 text themselves, 256 is the end of a text (`eos_token`) and 257 is
    padding. Any text that UTF-8 can hold comes back from `decode` as it was; only the spelled-out special tokens are
    read as those tokens. Nothing is put before or after a text: there is no BOS.

    Returns:
        A fast tokenizer that `save_pretrained` and `AutoTokenizer.from_pretrained` carry over unchanged.
    """
    tokenizer = Tokenizer(models.BPE(vocab={char: byte for byte, char in enumerate(_byte_alphabet())}, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([AddedToken(text, special=True, normalized=False) for text in (END_OF_TEXT, PADDING)])
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        eos_token=END_OF_TEXT,
        pad_token=PADDING,
        clean_up_tokenization_spaces=False,
    )


def _byte_alphabet() -> list[str]:
    """Lists the character that stands for each byte in the byte-level format (GPT-2: Radford et al. 2019).

    Printable Latin-1 characters stand for themselves; the other bytes take the characters from U+0100 on, in order.
    """
    printable = {*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)}
    spare = iter(range(0x100, 0x200))
    return [chr(byte) if byte in printable else chr(next(spare)) for byte in range(256)]
