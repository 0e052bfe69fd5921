"""The embedded model's configuration."""

from corrclip_jax.config import (
    CLIPConfig,
    CLIPTextConfig,
    CLIPVisionConfig,
    Config,
    DINOConfig,
    MethodConfig,
    RegionConfig,
    SAM2Config,
)

VOCABULARY_SIZE = 848

CONFIG = Config(
    name="tiny",
    clip=CLIPConfig(
        embed_dim=128,
        vision=CLIPVisionConfig(image_size=56, patch_size=4, width=128, layers=6, head_width=16),
        text=CLIPTextConfig(vocab_size=VOCABULARY_SIZE, context_length=32, width=128, heads=4, layers=3),
    ),
    dino=DINOConfig(image_size=56, patch_size=4, width=128, layers=4, heads=2),
    sam2=SAM2Config(
        image_size=192,
        width=32,
        heads=1,
        stages=(1, 1, 3, 1),
        global_blocks=(3,),
        window_sizes=(8, 4, 12, 6),
        embed_dim=96,
        decoder_heads=4,
        decoder_mlp_width=256,
    ),
    regions=RegionConfig(points_per_side=16),
    # CLIP and DINO see scenes half as large as they are drawn: so small towers learn outlines from patches of 4 x 4
    # pixels, not of 8 x 8. A window is as large as their training pictures.
    # So small a DINO tells things less apart than the published one: at the published distance of 0.2, things merge
    # with each other and with backgrounds. 0.02 was chosen on training scenes.
    method=MethodConfig(resize_short=84, window=56, stride=28, merge_distance=0.02),
)
