"""transformers' SAM 2 in any size, with random weights of a lively scale."""

import torch
from transformers import Sam2Config, Sam2HieraDetConfig, Sam2Model, Sam2VisionConfig

from corrclip_jax.config import SAM2Config


def random_sam2(config: SAM2Config) -> Sam2Model:
    """A Sam2Model of these sizes with random weights, biases and norms included."""
    torch.manual_seed(0)
    model = Sam2Model(_config(config)).eval()
    with torch.no_grad():
        for name, tensor in model.named_parameters():
            noise = torch.randn(tensor.shape)
            if tensor.ndim == 1:
                tensor.copy_(1 + 0.1 * noise if name.endswith("weight") else 0.1 * noise)
            else:
                fan_in = tensor.shape[1:].numel() if "weight" in name else 1
                tensor.copy_(noise * fan_in**-0.5)
        # Published files hold one matrix under both names.
        shared = model.shared_image_embedding.positional_embedding
        model.prompt_encoder.shared_embedding.positional_embedding.copy_(shared)
    return model


def _config(config: SAM2Config) -> Sam2Config:
    sides = [config.image_size // (4 << level) for level in range(3)]
    widths = [config.width << stage for stage in range(4)]
    backbone = Sam2HieraDetConfig(
        hidden_size=config.width,
        num_attention_heads=config.heads,
        image_size=[config.image_size] * 2,
        window_positional_embedding_background_size=list(config.background_size),
        blocks_per_stage=list(config.stages),
        embed_dim_per_stage=widths,
        num_attention_heads_per_stage=[config.heads << stage for stage in range(4)],
        window_size_per_stage=list(config.window_sizes),
        global_attention_blocks=list(config.global_blocks),
    )
    vision = Sam2VisionConfig(
        backbone_config=backbone,
        backbone_channel_list=widths[::-1],
        backbone_feature_sizes=[[side, side] for side in sides],
        fpn_hidden_size=config.embed_dim,
    )
    prompts = {
        "hidden_size": config.embed_dim,
        "image_size": config.image_size,
        "mask_input_channels": config.mask_channels,
    }
    decoder = {
        "hidden_size": config.embed_dim,
        "mlp_dim": config.decoder_mlp_width,
        "num_attention_heads": config.decoder_heads,
        "iou_head_hidden_dim": config.embed_dim,
        "dynamic_multimask_via_stability": False,
    }
    return Sam2Config(vision_config=vision, prompt_encoder_config=prompts, mask_decoder_config=decoder)
