"""Segment Anything on random weights that whoever reads this makes too: `segmenter.py OUTPUT_FOLDER`.

The decoder has 4 million numbers whatever the encoder is, too many to commit. So the weights are told by a rule
(`segmenter_weights.py`), which `tests/support/segmenter.rs` follows too, and only names, shapes and results are written down: of the original
(`segment-anything`) with a small vision transformer, and of MobileSAM with its TinyViT.
"""

import json
import sys
from functools import partial
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from safetensors.torch import save_file
from segment_anything import SamPredictor
from segment_anything.modeling import ImageEncoderViT, MaskDecoder, PromptEncoder, Sam, TwoWayTransformer
from segment_anything.utils.transforms import ResizeLongestSide

from segmenter_weights import numbers

WIDTH, DEPTH, HEADS, GLOBAL = 32, 2, 2, [1]
# Sizes of pictures: one that is taken as it is, one that is enlarged, one that is made smaller. The last two have one colour, so
# that how PIL rounds shows nowhere: it is compared alone.
SIZES = {"same": (1024, 640), "small": (96, 72), "large": (1500, 2000)}
# What is pointed at, in parts of a thousand of a side, and the labels of points.
POINTED = {
    "point": dict(points=[[400, 300]], labels=[1]),
    "points": dict(points=[[400, 300], [700, 800], [100, 900]], labels=[1, 1, 0]),
    "box": dict(box=[200, 100, 800, 700]),
    "both": dict(points=[[500, 500]], labels=[0], box=[200, 100, 800, 700]),
}
EVERY = 8  # of the rows and columns of a small mask, and of a mask of more than 128, every so many are written down


def picture(width, height):
    """A disc on a ground of two gradients."""
    y, x = np.mgrid[0:height, 0:width]
    across, down = x * 1000 // width, y * 1000 // height
    disc = (across - 400) ** 2 + (down - 300) ** 2 < 200**2
    ground = np.stack([across * 255 // 1000, down * 255 // 1000, (across + down) * 255 // 2000], axis=-1)
    return np.where(disc[..., None], np.array([230, 40, 90]), ground).astype(np.uint8)


def flat(width, height):
    return np.full((height, width, 3), (200, 120, 40), np.uint8)


def vit():
    encoder = ImageEncoderViT(
        depth=DEPTH, embed_dim=WIDTH, img_size=1024, mlp_ratio=4, norm_layer=partial(torch.nn.LayerNorm, eps=1e-6),
        num_heads=HEADS, patch_size=16, qkv_bias=True, use_rel_pos=True, global_attn_indexes=GLOBAL, window_size=14,
        out_chans=256)
    return Sam(
        image_encoder=encoder,
        prompt_encoder=PromptEncoder(
            embed_dim=256, image_embedding_size=(64, 64), input_image_size=(1024, 1024), mask_in_chans=16),
        mask_decoder=MaskDecoder(
            num_multimask_outputs=3, transformer_dim=256, iou_head_depth=3, iou_head_hidden_dim=256,
            transformer=TwoWayTransformer(depth=2, embedding_dim=256, mlp_dim=2048, num_heads=8)),
        pixel_mean=[123.675, 116.28, 103.53], pixel_std=[58.395, 57.12, 57.375])


def pixels(parts, size):
    return [[x * size[0] // 1000, y * size[1] // 1000] for x, y in parts]


def results(predictor, sizes):
    """The small mask before it is cut, and the mask in the picture's size."""
    tensors = {}
    for size_name in sizes:
        size = SIZES[size_name]
        predictor.set_image((picture if size_name == "same" else flat)(*size))
        for name, pointed in POINTED.items():
            points, box = pointed.get("points"), pointed.get("box")
            box_pixels = None
            if box is not None:
                (left, top), (right, bottom) = pixels([box[:2], box[2:]], size)
                box_pixels = np.array([left, top, right, bottom])
            masks, scores, small = predictor.predict(
                point_coords=None if points is None else np.array(pixels(points, size)),
                point_labels=None if points is None else np.array(pointed["labels"]), box=box_pixels,
                multimask_output=points is not None and len(points) == 1 and box is None)
            best = int(scores.argmax())
            print(size_name, name, scores, masks[best].mean())
            assert 0.02 < masks[best].mean() < 0.98, "a mask of all or nothing shows nothing"
            tensors[f"{size_name}.{name}.small"] = torch.from_numpy(small[best])[::EVERY, ::EVERY].contiguous()
            every = EVERY if max(size) > 128 else 1
            mask = masks[best][::every, ::every].astype(np.uint8)
            tensors[f"{size_name}.{name}.mask"] = torch.from_numpy(mask)
    return tensors


def resized():
    """Pictures in the square, every so many of their rows."""
    fit = ResizeLongestSide(1024).apply_image
    return {name: torch.from_numpy(fit(picture(*SIZES[name]))[::64].copy()) for name in ("small", "large")}


def write(folder, name, model, sizes):
    shapes = {key: list(value.shape) for key, value in model.state_dict().items() if value.dim() > 0}
    model.load_state_dict({key: torch.from_numpy(numbers(key, shape)) for key, shape in shapes.items()}, strict=False)
    model.eval()
    (folder / f"{name}.shapes.json").write_text(json.dumps(shapes, indent=0) + "\n")
    with torch.no_grad():
        save_file(results(SamPredictor(model), sizes), folder / f"{name}.safetensors")


def make(folder):
    from mobile_sam import sam_model_registry

    folder = folder / "segmenter"
    folder.mkdir(exist_ok=True)
    save_file(resized(), folder / "resized.safetensors")
    write(folder, "vit", vit(), SIZES)
    tiny = sam_model_registry["vit_t"]()
    for part in ("norm_head", "head"):  # it classifies, which nobody asks for here
        delattr(tiny.image_encoder, part)
    write(folder, "tiny", tiny, ["same"])


if __name__ == "__main__":
    make(Path(sys.argv[1]))
