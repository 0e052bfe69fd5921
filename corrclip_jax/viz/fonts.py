"""Fonts for names in pictures: Pillow's own for Latin letters, and for other scripts one that is installed here."""

import sys
import unicodedata
from collections.abc import Iterator
from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path
from typing import TypeAlias

from PIL import Image, ImageDraw, ImageFont, features

Font: TypeAlias = ImageFont.FreeTypeFont | ImageFont.ImageFont

# Files of fonts with many scripts, looked for before all others.
_KNOWN = (
    "NotoSans-Regular.ttf", "DejaVuSans.ttf", "segoeui.ttf", "arial.ttf", "Arial Unicode.ttf", "FreeSans.ttf",
    "NotoSansCJK-Regular.ttc", "NotoSansCJKsc-Regular.otf", "NotoSansSC-Regular.otf", "SourceHanSansSC-Regular.otf",
    "msyh.ttc", "PingFang.ttc", "Hiragino Sans GB.ttc", "wqy-microhei.ttc", "wqy-zenhei.ttc", "meiryo.ttc",
    "malgun.ttf", "DroidSansFallbackFull.ttf", "Nirmala.ttf", "LeelawUI.ttf", "NotoSansArabic-Regular.ttf",
    "NotoSansHebrew-Regular.ttf", "NotoSansDevanagari-Regular.ttf", "NotoSansThai-Regular.ttf", "unifont.otf",
)  # fmt: skip
_FOLDERS = {
    "win32": ["C:/Windows/Fonts", "~/AppData/Local/Microsoft/Windows/Fonts"],
    "darwin": ["/System/Library/Fonts", "/Library/Fonts", "~/Library/Fonts"],
}.get(sys.platform, ["/usr/share/fonts", "/usr/local/share/fonts", "~/.local/share/fonts", "~/.fonts"])
_PLACEHOLDERS = ("LastResort", "AdobeBlank")  # fonts that have a sign for every character, and no letters
_JOINERS = "\u200c\u200d"  # of no width, but some scripts are written differently with them
_MOST_FILES = 2000
_MISSING = "\U0010fffe"  # no character, so every font shows the sign for a missing one


def one_line(name: str) -> str:
    """The name on one line: white space and control characters are single spaces, marks of no width are dropped."""
    seen = (c for c in name if unicodedata.category(c) != "Cf" or c in _JOINERS)
    kept = (" " if unicodedata.category(c) in ("Cc", "Cs", "Cn") else c for c in seen)
    return " ".join(unicodedata.normalize("NFC", "".join(kept)).split())


def plain_font(size: int) -> Font:
    """Pillow's own font, which has Latin letters."""
    return ImageFont.load_default(size)


def writable(name: str) -> str | None:
    """The name on one line as fonts here can write it, at worst without accents; None if none has its letters."""
    plain = "".join(c for c in unicodedata.normalize("NFKD", name) if not unicodedata.combining(c))
    return next((one_line(text) for text in (name, plain) if one_line(text) and font_for(text, 14)), None)


def font_for(name: str, size: int) -> Font | None:
    """A font with all letters of a name, and None if none is installed here.

    Names written from right to left need Pillow's layout engine Raqm, which puts letters in order and joins them.

    Args:
      name: the text.
      size: of the font in pixels.
    """
    letters = frozenset(one_line(name)) - {" "}
    if any(unicodedata.bidirectional(c) in ("R", "AL") for c in letters) and not features.check("raqm"):
        return None
    default = ImageFont.load_default(size)
    if not isinstance(default, ImageFont.FreeTypeFont):  # Pillow without FreeType
        return default if all(c <= "~" for c in letters) else None
    if _has(None, letters):
        return default
    file = _file_for(letters)
    return None if file is None else ImageFont.truetype(file, size)


@lru_cache(maxsize=4096)
def _file_for(letters: frozenset[str]) -> str | None:
    return next((file for file in _files() if _has(file, letters)), None)


@lru_cache(maxsize=1)
def _files() -> tuple[str, ...]:
    """Font files of this machine, those with many scripts first."""
    found = sorted(_in_folders(), key=lambda path: (path.name not in _KNOWN, path.name))
    known = sorted((path for path in found if path.name in _KNOWN), key=lambda path: _KNOWN.index(path.name))
    others = [path for path in found if path.name not in _KNOWN]
    return tuple(map(str, [*known, *others]))


def _in_folders() -> Iterator[Path]:
    folders = [Path(folder).expanduser() for folder in _FOLDERS]
    matplotlib = find_spec("matplotlib")  # it brings DejaVu
    if matplotlib is not None and matplotlib.origin is not None:
        folders.append(Path(matplotlib.origin).parent / "mpl-data" / "fonts" / "ttf")
    count = 0
    for folder in folders:
        if not folder.is_dir():
            continue
        for path in folder.rglob("*"):
            is_font = path.suffix.lower() in (".ttf", ".otf", ".ttc") and not path.name.startswith(
                _PLACEHOLDERS
            )
            if is_font and count < _MOST_FILES:
                count += 1
                yield path


def _has(file: str | None, letters: frozenset[str]) -> bool:
    """Whether a font, None for Pillow's own, has all these letters."""
    return all(_has_letter(file, letter) for letter in letters)


@lru_cache(maxsize=1 << 16)
def _has_letter(file: str | None, letter: str) -> bool:
    if unicodedata.category(letter) in ("Mn", "Cf"):
        return True  # drawn with the letter before it, or not at all
    font = _probe(file)
    return font is not None and _drawn(font, letter) not in (_drawn(font, _MISSING), _drawn(font, " "))


@lru_cache(maxsize=256)
def _probe(file: str | None) -> ImageFont.FreeTypeFont | None:
    try:
        font = ImageFont.load_default(24) if file is None else ImageFont.truetype(file, 24)
    except OSError:  # no font after all
        return None
    return font if isinstance(font, ImageFont.FreeTypeFont) else None


def _drawn(font: ImageFont.FreeTypeFont, letter: str) -> bytes:
    image = Image.new("L", (64, 64))
    ImageDraw.Draw(image).text((16, 16), letter, 255, font)
    return image.tobytes()
