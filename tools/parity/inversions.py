"""Random textual inversions in the forms that people have, for two of the small checkpoints, and runs with them:
`inversions.py OUTPUT_FOLDER`, where the checkpoints are. diffusers loads the vectors and draws."""

import json
import sys
from pathlib import Path

import torch
from safetensors.torch import save_file

import runs
from lora import load_pipes

# The prompts are what an `a1111` prompt without weights says, too. In lower case: diffusers 0.42.1 with transformers 5 does not
# find the further vectors of a token with capitals.
RUNS = [
    runs.run("embedding_sd", "text", "text", "euler", steps=2, prompt="a ink, red circle", negative_prompt="easynegative",
             embeddings=["ink", "easynegative"]),
    runs.run("embedding_xl", "xl", "text", "euler", steps=2, prompt="red ink, the circle", embeddings=["xl/ink"]),
]


def vectors(encoder, count, generator):
    """As long as the vectors of the vocabulary, in half precision."""
    table = encoder.get_input_embeddings().weight
    return (torch.randn(count, table.shape[1], generator=generator) * table.std()).half()


def files(pipes):
    generator = torch.Generator().manual_seed(4000)
    text, xl = pipes["text"], pipes["xl"]
    # diffusers' form has the token's name, and a vector alone may stand as it is; A1111's is `emb_params`.
    yield "ink", {"<ink>": vectors(text.text_encoder, 1, generator)[0]}
    yield "easynegative", {"emb_params": vectors(text.text_encoder, 3, generator)}
    yield "xl/ink", {"clip_l": vectors(xl.text_encoder, 2, generator), "clip_g": vectors(xl.text_encoder_2, 2, generator)}


def apply(pipe, checkpoint, known, names):
    for name in names:
        tensors, token = {key: value.float() for key, value in known[name].items()}, name.split("/")[-1]
        if checkpoint == "text":
            [value] = tensors.values()
            pipe.load_textual_inversion({token: value}, token=token)
        else:
            pipe.load_textual_inversion(tensors["clip_l"], token=token, text_encoder=pipe.text_encoder, tokenizer=pipe.tokenizer)
            pipe.load_textual_inversion(
                tensors["clip_g"], token=token, text_encoder=pipe.text_encoder_2, tokenizer=pipe.tokenizer_2)
    if checkpoint == "xl":
        # The published configuration names 2 as the end, whatever it is; transformers then takes the largest id for it, which
        # is that of an added token. Kohya's scripts and the interfaces take the end of the prompt, and so is it done here.
        for module in pipe.text_encoder_2.modules():
            if hasattr(module, "eos_token_id"):
                module.eos_token_id = pipe.tokenizer_2.eos_token_id
    # clip_skip in diffusers 0.42.1 asks for an attribute that transformers 5 no longer has.
    pipe.text_encoder.__dict__["text_model"] = pipe.text_encoder


def make(folder: Path):
    known = dict(files(load_pipes(folder)))
    for name, tensors in known.items():
        path = folder / f"embeddings/{name}.safetensors"
        path.parent.mkdir(parents=True, exist_ok=True)
        save_file({key: value.detach().contiguous() for key, value in tensors.items()}, path)
    out = {}
    for case in RUNS:
        pipe = load_pipes(folder)[case["checkpoint"]]
        apply(pipe, case["checkpoint"], known, case["embeddings"])
        runs.one(case, pipe, type(pipe), out)
    save_file({name: value.contiguous() for name, value in out.items()}, folder / "embeddings.safetensors")
    (folder / "embeddings.json").write_text(json.dumps(RUNS, indent=1))


if __name__ == "__main__":
    make(Path(sys.argv[1]))
