"""DINO's features and the parts of CLIP's image tower that the method strings together."""

import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import CLIPModel, ViTModel

CLIP_MEAN, CLIP_STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)
IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def channels(values: tuple[float, float, float]) -> Tensor:
    return torch.tensor(values).view(3, 1, 1)


def dino_features(dino: ViTModel, window: Tensor) -> Tensor:
    """CLIP-normalised window [3, h, w] to unit features [gh, gw, C]: the last block's query plus key."""
    pixels = window * channels(CLIP_STD) + channels(CLIP_MEAN)
    pixels = (pixels - channels(IMAGENET_MEAN)) / channels(IMAGENET_STD)
    patches = dino.embeddings.patch_embeddings.projection(pixels[None])[0]
    gh, gw = patches.shape[1:]
    native = dino.config.image_size // dino.config.patch_size
    class_position, positions = dino.embeddings.position_embeddings[0].split([1, native * native])
    if (gh, gw) != (native, native):
        positions = resized_positions(positions, native, gh, gw)
    class_token = dino.embeddings.cls_token[0] + class_position
    tokens = torch.cat([class_token, patches.flatten(1).T + positions])[None]
    for layer in dino.layers[:-1]:
        tokens = layer(tokens)
    last = dino.layers[-1]
    normed = last.layernorm_before(tokens)
    summed = last.attention.q_proj(normed) + last.attention.k_proj(normed)
    return F.normalize(summed[0, 1:], dim=-1).view(gh, gw, -1)


def clip_tokens(clip: CLIPModel, window: Tensor) -> tuple[Tensor, int, int]:
    """Normalised window [3, h, w] to tokens [1 + th*tw, width] after the first norm, and the grid."""
    vision = clip.vision_model
    patches = vision.embeddings.patch_embedding(window[None])[0]
    th, tw = patches.shape[1:]
    native = vision.config.image_size // vision.config.patch_size
    class_position, positions = vision.embeddings.position_embedding.weight.split([1, native * native])
    if th * tw != native * native:
        positions = resized_positions(positions, native, th, tw)
    class_token = vision.embeddings.class_embedding + class_position
    tokens = torch.cat([class_token, patches.flatten(1).T + positions])
    return vision.pre_layrnorm(tokens), th, tw


def resized_positions(positions: Tensor, native: int, height: int, width: int) -> Tensor:
    """Position embeddings of the native square for another grid; the scale factor decides where to sample."""
    square = positions.view(1, native, native, -1).permute(0, 3, 1, 2)
    scale = ((height + 0.1) / native, (width + 0.1) / native)
    out = F.interpolate(square, scale_factor=scale, mode="bicubic", align_corners=False)
    assert out.shape[2:] == (height, width)
    return out[0].flatten(1).T
