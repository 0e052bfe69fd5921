"""What generated scenes are made of, in words, and which combinations training never shows.

The first name of each entry is the name in the program; all names of an entry occur in captions.
"""

SHAPES: dict[str, tuple[str, ...]] = {
    "circle": ("circle", "disc"),
    "square": ("square", "box"),
    "triangle": ("triangle",),
    "star": ("star",),
    "cross": ("cross", "plus sign"),
    "ring": ("ring", "hoop"),
    "moon": ("moon", "crescent"),
    "heart": ("heart",),
    "arrow": ("arrow",),
    "flower": ("flower", "blossom"),
}

COLOURS: dict[str, tuple[str, ...]] = {
    "red": ("red",),
    "orange": ("orange",),
    "yellow": ("yellow",),
    "green": ("green",),
    "blue": ("blue",),
    "purple": ("purple", "violet"),
    "white": ("white",),
    "black": ("black",),
}

MATERIALS: dict[str, tuple[str, ...]] = {
    "plain": ("plain",),
    "striped": ("striped", "stripy"),
    "dotted": ("dotted", "spotted"),
    "checked": ("checked", "chequered"),
    "shiny": ("shiny", "glossy"),
}

BACKGROUNDS: dict[str, tuple[str, ...]] = {
    "grass": ("grass", "lawn"),
    "sky": ("sky", "clouds"),
    "water": ("water", "sea"),
    "sand": ("sand", "beach"),
    "brick": ("brick", "brick wall"),
    "wood": ("wood", "planks"),
    "snow": ("snow",),
    "road": ("road", "asphalt"),
}

# (colour, shape) pairs that no training picture holds: every colour and every shape is in one or two of them.
HELD_OUT_PAIRS: tuple[tuple[str, str], ...] = (
    ("red", "square"), ("red", "heart"),
    ("orange", "ring"), ("orange", "star"),
    ("yellow", "triangle"), ("yellow", "moon"),
    ("green", "circle"), ("green", "arrow"),
    ("blue", "flower"), ("blue", "cross"),
    ("purple", "star"), ("purple", "square"),
    ("white", "triangle"), ("white", "arrow"),
    ("black", "heart"), ("black", "ring"),
)  # fmt: skip

# (material, background) pairs that no training picture holds.
HELD_OUT_MATERIALS: tuple[tuple[str, str], ...] = (
    ("dotted", "grass"), ("shiny", "sky"), ("checked", "water"), ("shiny", "sand"),
    ("dotted", "brick"), ("checked", "wood"), ("striped", "snow"), ("striped", "road"),
)  # fmt: skip

# Never drawn at all: nobody could see it.
INVISIBLE: tuple[tuple[str, str], ...] = (("white", "snow"),)

# The class list of scenes: what a label map's numbers stand for, each class with its synonyms.
CLASSES: tuple[tuple[str, ...], ...] = (*SHAPES.values(), *BACKGROUNDS.values())

# The class list of the scenes of unseen combinations.
UNSEEN_CLASSES: tuple[tuple[str, ...], ...] = (
    *((f"{colour} {shape}",) for colour, shape in HELD_OUT_PAIRS),
    *BACKGROUNDS.values(),
)
