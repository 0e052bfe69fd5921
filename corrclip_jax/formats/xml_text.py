"""XML text: what XML 1.0 can hold."""

import re

_NO_XML = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


def xml_text(text: str) -> str:
    """The text with a replacement character for each character that XML excludes.

    >>> xml_text("bell\\x07") == "bell\\ufffd"
    True
    """
    return _NO_XML.sub("\ufffd", text)
