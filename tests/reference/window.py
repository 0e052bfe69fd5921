"""One window: DINO's correlations, merged regions, CLIP's three branches."""

import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import CLIPModel, ViTModel

from reference.towers import clip_tokens, dino_features

SPATIAL_LAYERS = {12: 5, 24: 12, 32: 28}


def window_features(
    clip: CLIPModel,
    dino: ViTModel,
    window: Tensor,
    regions: Tensor,
    *,
    merge_distance: float = 0.2,
    similarity_scale: float = 4.0,
    spatial_weight: float = 1.0,
    semantic_weight: float = 0.5,
    spatial_layers: int | None = None,
) -> dict[str, Tensor]:
    """Every stage of the window step, from normalised (and padded) pixels [3, h, w] and region ids [h, w].

    Grids are given as such: dino_features [gh, gw, C], merged [gh, gw], main, spatial, semantic and features
    [gh, gw, width or D]; similarity and attention are [L, L]. `features` are before normalisation.
    """
    cells = dino_features(dino, window)
    gh, gw, _ = cells.shape
    flat = cells.flatten(0, 1)
    similarity = flat @ flat.T
    merged = merge_regions(cells, nearest(regions, gh, gw), merge_distance)
    attention = attention_weights(similarity, merged.flatten(), similarity_scale)

    outputs, token_regions, tokens_of_region = clip_blocks(clip, window, merged)
    n = len(outputs)
    m = SPATIAL_LAYERS.get(n, n - 4) if spatial_layers is None else spatial_layers
    patches = token_regions.numel()
    th, tw = token_regions.shape
    before_last = outputs[n - 2]
    spatial_mean = torch.stack(outputs[n - 2 - m : n - 2]).mean(0)

    last = clip.vision_model.encoder.layers[-1]
    main, spatial = (
        reconstructed_values(last, x[1 : 1 + patches].view(th, tw, -1), attention, gh, gw)
        for x in (before_last, spatial_mean)
    )
    semantic = semantic_map(outputs[n - 1][1 + patches :], tokens_of_region, token_regions, gh, gw)

    norm = clip.vision_model.post_layernorm
    mixed = norm(main) + spatial_weight * norm(spatial) + semantic_weight * norm(semantic)
    return {
        "dino_features": cells,
        "similarity": similarity,
        "merged": merged,
        "attention": attention,
        "main": main,
        "spatial": spatial,
        "semantic": semantic,
        "features": clip.visual_projection(mixed),
    }


def nearest(regions: Tensor, height: int, width: int) -> Tensor:
    """Integer map [h, w] resized by torch's nearest rule, whatever the ids."""
    ids, index = regions.unique(return_inverse=True)
    small = F.interpolate(index[None, None].float(), size=(height, width), mode="nearest")
    return ids[small[0, 0].long()]


def merge_regions(cells: Tensor, regions: Tensor, distance: float) -> Tensor:
    """Give regions that a chain of alike regions joins one id. The smallest id, the rest, stays alone."""
    ids = regions.unique().tolist()
    if len(ids) <= 2:
        return regions
    means = torch.stack([cells[regions == i].mean(0) for i in ids[1:]])
    means = F.normalize(means, dim=-1)
    similarity = means @ means.T
    alike = similarity.max() - similarity <= distance
    leaders = list(range(len(ids) - 1))

    def leader(i: int) -> int:
        while leaders[i] != i:
            i = leaders[i]
        return i

    for i, j in alike.nonzero().tolist():
        a, b = leader(i), leader(j)
        leaders[max(a, b)] = min(a, b)
    merged = regions.clone()
    for i, old in enumerate(ids[1:]):
        merged[regions == old] = ids[1 + leader(i)]
    return merged


def attention_weights(similarity: Tensor, regions: Tensor, scale: float) -> Tensor:
    """A [L, L]: softmax of the scaled similarities over the cells that a cell may look at."""
    rest = regions == regions.min()
    same = (regions[:, None] == regions[None]) & ~rest[:, None]
    loose = (rest[:, None] | rest[None]) & (similarity > similarity.mean())
    return (scale * similarity).masked_fill(~(same | loose), -torch.inf).softmax(-1)


def clip_blocks(clip: CLIPModel, window: Tensor, merged: Tensor) -> tuple[list[Tensor], Tensor, list[int]]:
    """Outputs of all blocks for [class token, patches, one token a region], the token grid's regions, their ids.

    A region token reads the class token and its own region's patches; nobody reads region tokens.
    """
    tokens, th, tw = clip_tokens(clip, window)
    token_regions = nearest(merged, th, tw)
    ids = token_regions.unique().tolist()
    x = torch.cat([tokens, tokens[:1].expand(len(ids), -1)])
    plain = 1 + th * tw
    allowed = torch.zeros(len(x), len(x), dtype=torch.bool)
    allowed[:, 0] = True
    allowed[:plain, :plain] = True
    for row, i in enumerate(ids, start=plain):
        allowed[row, 1:plain] = token_regions.flatten() == i
    mask = torch.zeros(allowed.shape).masked_fill(~allowed, -torch.inf)[None, None]
    outputs = []
    for layer in clip.vision_model.encoder.layers:
        x = layer(x[None], attention_mask=mask)[0]
        outputs.append(x)
    return outputs, token_regions, ids


def reconstructed_values(last, patches: Tensor, attention: Tensor, gh: int, gw: int) -> Tensor:
    """The last block's values of patches [th, tw, width], gathered with A instead of its own attention."""
    values = last.self_attn.v_proj(last.layer_norm1(patches))
    values = F.interpolate(values.permute(2, 0, 1)[None], size=(gh, gw), mode="bilinear")[0]
    return last.self_attn.out_proj(attention @ values.flatten(1).T).view(gh, gw, -1)


def semantic_map(tokens: Tensor, ids: list[int], token_regions: Tensor, gh: int, gw: int) -> Tensor:
    """Each cell of the grid with the token of its region on CLIP's grid, [gh, gw, width]."""
    cell_regions = nearest(token_regions, gh, gw)
    out = torch.zeros(gh, gw, tokens.shape[-1])
    for token, i in zip(tokens, ids, strict=True):
        out[cell_regions == i] = token
    return out
