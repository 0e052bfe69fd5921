"""The 80 prompt templates of CLIP's ImageNet ensemble, from a table of what varies in them.

Their order does not matter to the method, which averages over them.
"""

_ARTICLES = ("a", "the")
_PHOTO_QUALITIES = (
    "good", "bad", "bright", "dark", "cropped", "close-up", "blurry", "pixelated", "jpeg corrupted",
    "low resolution", "black and white",
)  # fmt: skip
_OBJECT_QUALITIES = ("clean", "dirty", "nice", "cool", "weird", "small", "large", "hard to see")
_PICTURES = (
    "a rendering", "a rendition", "a sculpture", "a drawing", "a painting", "a sketch", "a doodle",
    "a tattoo", "art", "graffiti", "itap",
)  # fmt: skip
_MATERIALS = ("embroidered", "cartoon", "plastic", "toy", "plushie", "origami")

TEMPLATES: tuple[str, ...] = (
    *(f"a {quality} photo of {article} {{}}." for quality in _PHOTO_QUALITIES for article in _ARTICLES),
    *(f"a photo of {article} {quality} {{}}." for quality in _OBJECT_QUALITIES for article in _ARTICLES),
    *(f"a photo of {which} {{}}." for which in (*_ARTICLES, "my", "one", "many")),
    *(f"{picture} of {article} {{}}." for picture in _PICTURES for article in _ARTICLES),
    *(f"{article} {material} {{}}." for material in _MATERIALS for article in _ARTICLES),
    *(f"{article} {{}} in a video game." for article in _ARTICLES),
    "itap of my {}.",
)


def prompts(name: str) -> list[str]:
    """One class name in all templates.

    >>> prompts("cat")[0]
    'a good photo of a cat.'
    """
    return [template.format(name) for template in TEMPLATES]
