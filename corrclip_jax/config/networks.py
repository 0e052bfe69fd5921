"""Networks: frozen, hashable descriptions of CLIP, similarity backbones and networks that find regions."""

from dataclasses import dataclass


class NetworkConfig:
    """What all descriptions of a network are: frozen dataclasses whose defaults are a published size."""


@dataclass(frozen=True)
class CLIPVisionConfig:
    """CLIP's image tower, a pre-LN ViT with `width // head_width` heads."""

    image_size: int = 224
    patch_size: int = 16
    width: int = 768
    layers: int = 12
    head_width: int = 64
    mlp_ratio: float = 4.0

    @property
    def heads(self) -> int:
        """Number of attention heads."""
        return self.width // self.head_width


@dataclass(frozen=True)
class CLIPTextConfig:
    """CLIP's text tower, a causal pre-LN transformer."""

    vocab_size: int = 49408
    context_length: int = 77
    width: int = 512
    heads: int = 8
    layers: int = 12
    mlp_ratio: float = 4.0


@dataclass(frozen=True)
class CLIPConfig(NetworkConfig):
    """A CLIP: two towers with one joint space. `quick_gelu` is True for OpenAI, MetaCLIP and DFN weights."""

    embed_dim: int = 512
    quick_gelu: bool = True
    vision: CLIPVisionConfig = CLIPVisionConfig()
    text: CLIPTextConfig = CLIPTextConfig()


@dataclass(frozen=True)
class DINOConfig(NetworkConfig):
    """A DINO v1 ViT."""

    image_size: int = 224
    patch_size: int = 8
    width: int = 768
    layers: int = 12
    heads: int = 12
    mlp_ratio: float = 4.0


@dataclass(frozen=True)
class ViTConfig(NetworkConfig):
    """A plain ViT whose patches are features.

    `image_size` is the native one: that of the grid of position embeddings, where there is one. `swiglu` is True
    for a gated MLP, two thirds as wide as `mlp_ratio` says.
    """

    image_size: int
    patch_size: int
    width: int = 1024
    layers: int = 24
    heads: int = 16
    mlp_ratio: float = 4.0
    swiglu: bool = False

    def __post_init__(self) -> None:
        _check_vit(self)

    @property
    def grid(self) -> int:
        """Patches a side at the native size."""
        return self.image_size // self.patch_size


@dataclass(frozen=True)
class RadioConfig(ViTConfig):
    """RADIO. `prefix_tokens` are class and register tokens; the defaults are those of C-RADIOv3-L.

    `layer_scale`, `final_norm` and `feature_normalizer` are True for a checkpoint that has these parts.
    """

    image_size: int = 2048
    patch_size: int = 16
    prefix_tokens: int = 8
    layer_scale: bool = False
    final_norm: bool = False
    feature_normalizer: bool = False


@dataclass(frozen=True)
class DINOv2Config(ViTConfig):
    """DINOv2, with registers or (0) without. The defaults are those of ViT-L with registers."""

    image_size: int = 518
    patch_size: int = 14
    registers: int = 4


@dataclass(frozen=True)
class DINOv3Config(ViTConfig):
    """DINOv3, whose rotary positions have periods up to `rope_base`. The defaults are those of ViT-L."""

    image_size: int = 224
    patch_size: int = 16
    registers: int = 4
    rope_base: float = 100.0


@dataclass(frozen=True)
class PEConfig(ViTConfig):
    """PE-Spatial of the Perception Encoder. The defaults are those of ViT-L/14."""

    image_size: int = 448
    patch_size: int = 14


@dataclass(frozen=True)
class SAM2Config(NetworkConfig):
    """SAM 2 or 2.1 for images: Hiera trunk, FPN neck, prompt encoder, two-way mask decoder.

    `width` and `heads` are those of the first stage; both double from stage to stage. `window_sizes` holds one
    attention window per stage; `global_blocks` attend globally; `background_size` is the grid of the trunk's
    coarse position embedding. The defaults are Hiera-L's.
    """

    image_size: int = 1024
    width: int = 144
    heads: int = 2
    stages: tuple[int, ...] = (2, 6, 36, 4)
    global_blocks: tuple[int, ...] = (23, 33, 43)
    window_sizes: tuple[int, ...] = (8, 4, 16, 8)
    background_size: tuple[int, int] = (7, 7)
    embed_dim: int = 256
    decoder_heads: int = 8
    decoder_layers: int = 2
    decoder_mlp_width: int = 2048
    mask_channels: int = 16

    def __post_init__(self) -> None:
        if len(self.stages) != 4 or len(self.window_sizes) != 4:
            raise ValueError(
                "SAM 2 has four stages: stages and window_sizes must have four entries each. "
                f"Got {self.stages} and {self.window_sizes}."
            )
        if any(window % 2 for window in self.window_sizes[:3]):
            raise ValueError(
                "The windows of the first three stages are halved where the next stage begins: "
                f"window_sizes must be even there. Got {self.window_sizes}."
            )
        if self.image_size % 32 or self.image_size % (4 * self.window_sizes[0]):
            raise ValueError(
                "image_size must be a multiple of 32 and of four times the first stage's window, "
                f"{4 * self.window_sizes[0]}. Got {self.image_size}."
            )

    @property
    def embed_size(self) -> int:
        """Side of the coarsest feature map that the decoder reads (image / 16)."""
        return self.image_size // 16


@dataclass(frozen=True)
class SAM1Config(NetworkConfig):
    """The first Segment Anything: ViT with windowed attention, neck, prompt encoder, two-way mask decoder.

    Blocks attend in windows of `window` patches a side, `global_blocks` to the whole grid. The decoder's fields
    mean what they mean in `SAM2Config`. The defaults are ViT-B's.
    """

    image_size: int = 1024
    patch_size: int = 16
    width: int = 768
    layers: int = 12
    heads: int = 12
    global_blocks: tuple[int, ...] = (2, 5, 8, 11)
    window: int = 14
    mlp_ratio: float = 4.0
    embed_dim: int = 256
    decoder_heads: int = 8
    decoder_layers: int = 2
    decoder_mlp_width: int = 2048
    mask_channels: int = 16

    def __post_init__(self) -> None:
        _check_vit(self)

    @property
    def embed_size(self) -> int:
        """Side of the feature map that the decoder reads."""
        return self.image_size // self.patch_size


@dataclass(frozen=True)
class EoMTConfig(NetworkConfig):
    """EoMT: a ViT with registers, whose last `query_blocks` blocks see queries too, and two heads.

    The ViT is DINOv2's, whose positions are learned, or DINOv3's, whose rotary ones have periods up to `rope_base`;
    it is None for DINOv2. `upscale_blocks` double the grid of patches for the masks; `labels` are classes without
    "nothing". `swiglu` is True for the giant one's gated MLP. The defaults are those of DINOv2's ViT-L for COCO
    panoptic at 640.
    """

    image_size: int = 640
    patch_size: int = 16
    width: int = 1024
    layers: int = 24
    heads: int = 16
    mlp_ratio: float = 4.0
    swiglu: bool = False
    registers: int = 4
    queries: int = 200
    query_blocks: int = 4
    upscale_blocks: int = 2
    labels: int = 133
    rope_base: float | None = None

    def __post_init__(self) -> None:
        _check_vit(self)
        if not 0 < self.query_blocks <= self.layers:
            raise ValueError(f"query_blocks must be 1 to {self.layers}, the layers. Got {self.query_blocks}.")

    @property
    def grid(self) -> int:
        """Patches a side."""
        return self.image_size // self.patch_size


@dataclass(frozen=True)
class Mask2FormerConfig(NetworkConfig):
    """Mask2Former: Swin, a pixel decoder of deformable attention, a decoder with masked attention.

    Swin's `embed_dim` is that of the first stage and doubles from stage to stage; `depths` and `heads` are those
    of the stages, `window` is a side in patches. `feature_size` is the width of both decoders, `mask_feature_size`
    that of the map which the masks are read off; `decoder_heads` are the pixel decoder's too, whose other numbers
    are the `encoder_` ones, as published. `labels` are classes without "nothing"; `image_size` is the side that
    photos are resized to. The defaults are those of Swin-L for COCO panoptic.
    """

    image_size: int = 384
    patch_size: int = 4
    embed_dim: int = 192
    depths: tuple[int, ...] = (2, 2, 18, 2)
    heads: tuple[int, ...] = (6, 12, 24, 48)
    window: int = 12
    mlp_ratio: float = 4.0
    feature_size: int = 256
    mask_feature_size: int = 256
    encoder_layers: int = 6
    encoder_mlp_width: int = 1024
    decoder_layers: int = 9
    decoder_heads: int = 8
    decoder_mlp_width: int = 2048
    queries: int = 200
    labels: int = 133

    def __post_init__(self) -> None:
        if len(self.depths) != 4 or len(self.heads) != 4:
            raise ValueError(
                "Swin has four stages: depths and heads must have four entries each. "
                f"Got {self.depths} and {self.heads}."
            )
        if any((self.embed_dim << stage) % heads for stage, heads in enumerate(self.heads)):
            raise ValueError(
                "heads must divide the stages' widths, embed_dim and its doubles. "
                f"Got {self.heads} and {self.embed_dim}."
            )
        if self.feature_size % self.decoder_heads or self.feature_size % 32:
            raise ValueError(
                f"feature_size must be a multiple of decoder_heads, {self.decoder_heads}, and of 32, the groups of "
                f"the pixel decoder's norms. Got {self.feature_size}."
            )
        if self.image_size % 32:
            raise ValueError(f"image_size must be a multiple of 32. Got {self.image_size}.")


def _check_vit(config: SAM1Config | EoMTConfig | ViTConfig) -> None:
    """Refuse a ViT whose patches do not fill its image, or whose heads do not fill its width."""
    if config.image_size % config.patch_size:
        raise ValueError(
            f"image_size must be a multiple of patch_size, {config.patch_size}. Got {config.image_size}."
        )
    if config.width % config.heads:
        raise ValueError(f"width must be a multiple of heads, {config.heads}. Got {config.width}.")
