"""What prompts become: token ids of CLIP's real vocabulary, A1111's weights and chunks, embeddings, one picture.

    python prompts.py ../../tests/data/parity

The checkpoints `text` and `inpaint` have to be there (`checkpoints.py`); nothing but the folder `prompts` is written.
A1111's rules are implemented here from their description, apart from the Rust ones and in another way: a bracket is a
factor on a range of the prompt's pieces.
"""

import gzip
import hashlib
import json
import re
import sys
from pathlib import Path

import torch
from diffusers import StableDiffusionPipeline
from safetensors.torch import save_file
from transformers import CLIPTextModel, CLIPTokenizer

import checkpoints

VOCABULARY = Path(__file__).resolve().parents[2] / "assets/clip/bpe_simple_vocab_16e6.txt.gz"
MERGES = 49152 - 256 - 2  # as many lines of the file as CLIP uses
BLOCK = 4096  # code points under one digest

PLAIN = [
    "",
    " ",
    "a photo of an astronaut riding a horse on mars",
    "  Two\n\tlines   and    SPACES  ",
    "don't we'll it's I'm you've they're he'd DON'T '90s rock 'n' roll o'clock ''s",
    "1984 3.14159 1,000,000 2nd 4K 8k uhd ½ ² Ⅷ ٣",
    "x" * 300,
    "pneumonoultramicroscopicsilicovolcanoconiosis " * 3,
    "caf\u00e9 cafe\u0301 na\u00efve \u00dcber \u1e9b\u0323 \ufb01ne \u00c5 \u212b e\u0301\u0300\u0302\u0303",
    "\u0130stanbul \u0131 \u1e9e Stra\u00dfe \u039f\u0394\u039f\u03a3 \u03c2 \u01c5 \u10a0 \u13a0",
    "\U0001f600 \U0001f469\u200d\U0001f4bb \U0001f468\u200d\U0001f469\u200d\U0001f467\u200d\U0001f466 \U0001f1ef\U0001f1f5 \U0001f44d\U0001f3fd \u2764\ufe0f",
    "\u4f60\u597d\u4e16\u754c \u65e5\u672c\u8a9e\u306e\u30c6\u30b9\u30c8 \ud55c\uad6d\uc5b4 \u1112\u1161\u11ab \uff21\uff22\uff23\uff11",
    "\u0645\u0631\u062d\u0628\u0627 \u0628\u0627\u0644\u0639\u0627\u0644\u0645 \u05e9\u05dc\u05d5\u05dd \u200fabc\u200e \u202edcba\u202c",
    "\u0e2a\u0e27\u0e31\u0e2a\u0e14\u0e35 \u0928\u092e\u0938\u094d\u0924\u0947 \u10db\u10d2\u10d6\u10d0\u10d5\u10e0\u10d8",
    "a\u0000b \u0001\u0002 \u007f \u0085 \u00a0 \u00ad \u200b \u2028 \u2029 \u3000 \ufeff \ufffd",
    "&lt;b&gt; &amp;amp; &#39;x&#39; <b>bold</b> &nbsp;",
    "typed <|endoftext|> in the middle <|startoftext|> and <|ENDOFTEXT|>",
    "<|endoftext|><|endoftext|>x<|startoftext|>",
    "<lora:x:0.5> __wildcard__ {a|b} ~!@#$%^&*()_+`-=[]\\;',./",
    "a,b , c ,, d,,,e",
    "$1.50 50% off!!! ??? ... \u2026 \u2014 \u201cquoted\u201d \u2018single\u2019",
    "\ue000 \U000f0000 \U0010ffff \u0378",
    "Zalgo H\u0337\u0311e\u0338\u0308l\u0335\u0301l\u0334\u0306o\u0336\u030d",
    "the quick brown fox " * 40,
]

A1111 = [
    "normal text",
    "an (important) word",
    "(unbalanced",
    "\\(literal\\]",
    "(unnecessary)(parens)",
    "a (((house:1.3)) [on] a (hill:0.5), sun, (((sky))).",
    "",
    "()[](:1.5)",
    "a [b (c:1.5",
    "(a [b) c]",
    "a) b] c:1.3)",
    "a\\b \\\\ \\( \\) \\[ \\] (x\\):1.2)",
    "(zero:0) (minus:-1.5) (plus:+2.) (half:.5) (spaced: 1.25 )",
    "(a:1e99) (b:nan) (c:b:1.2) 16:9",
    "the red circle BREAK (the blue:1.4) circle",
    "BREAK red  BREAK\nBREAK blue BREAK",
    "BREAKFAST aBREAK break",
    "red " * 75,
    "red " * 76,
    "(red:1.2) " * 160,
    # A comma among the last 20 words of a chunk, at the edges of that, and none.
    "red " * 60 + ", " + "blue " * 40,
    "red " * 55 + ", " + "blue " * 40,
    "red " * 54 + ", " + "blue " * 40,
    "red " * 74 + ", " + "blue " * 5,
    "red " * 75 + ", " + "blue " * 5,
    "red " * 70 + ", (blue " + "blue, " * 10 + ":0.7) [circle] " * 30,
    "typed <|endoftext|> in the (middle:1.3) <|startoftext|> of it",
    "caf\u00e9 (\U0001f600:1.3) [\u4f60\u597d]",
]

EMBEDDED = [
    "a large red circle on a blue background",
    "a (large:1.4) ((red)) circle [on a (blue:0.3) background]",
    "the red circle BREAK (the blue:1.4) circle",
    "(red:1.3) , the circle, " * 20 + "[blue]",
    "(everything:0.2)",
    "typed <|endoftext|> in the (middle:1.3)",
]


def vocabulary():
    """The vocabulary and merges that OpenAI's tokenizer derives from the file of merges."""
    lines = gzip.decompress(VOCABULARY.read_bytes()).decode().split("\n")[1:MERGES + 1]
    merges = [tuple(line.split()) for line in lines]
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    letters = [chr(byte) for byte in printable] + [chr(256 + i) for i in range(256 - len(printable))]
    words = [*letters, *(letter + "</w>" for letter in letters), *("".join(merge) for merge in merges)]
    words += [checkpoints.START, checkpoints.END]
    assert len(words) == 49408
    return {word: i for i, word in enumerate(words)}, merges


def real_tokenizer():
    vocab, merges = vocabulary()
    tokenizer = CLIPTokenizer(vocab=vocab, merges=merges, model_max_length=77)
    # Known from OpenAI's release.
    assert tokenizer("a photo of a cat").input_ids == [49406, 320, 1125, 539, 320, 2368, 49407]
    return tokenizer


def digests(tokenizer):
    """For each block of code points the ids of each one inside a word, alone, and after an apostrophe."""
    out = []
    for block in range(0, 0x110000, BLOCK):
        points = [chr(c) for c in range(block, block + BLOCK) if not 0xD800 <= c < 0xE000]
        if not points:
            continue
        lists = tokenizer([f"a{c}b {c} '{c}" for c in points], add_special_tokens=False).input_ids
        text = ";".join(",".join(map(str, ids)) for ids in lists)
        out.append({"first": block, "digest": hashlib.sha256(text.encode()).hexdigest()[:16]})
    return out


ELEMENT = re.compile(r"\\[()\[\]\\]|\\|[(\[\])]|:\s*[+-]?[.\d]+\s*\)|:|[^\\()\[\]:]+")


def parse(prompt):
    """[[text, weight]] with [None, None] for BREAK: factors are collected as (first, last, factor) ranges."""
    pieces, ranges, opened = [], [], {"(": [], "[": []}
    for element in ELEMENT.findall(prompt):
        closing = element[0] == ":" and len(element) > 1
        if element in opened:
            opened[element].append(len(pieces))
        elif closing and opened["("]:
            ranges.append((opened["("].pop(), len(pieces), float(element[1:-1])))
        elif element == ")" and opened["("]:
            ranges.append((opened["("].pop(), len(pieces), 1.1))
        elif element == "]" and opened["["]:
            ranges.append((opened["["].pop(), len(pieces), 1 / 1.1))
        elif element[0] == "\\":
            pieces.append(element[1:])
        elif closing:
            pieces.append(element)
        else:
            for i, part in enumerate(re.split(r"\s*\bBREAK\b\s*", element)):
                pieces += [None] * (i > 0) + [part]
    ranges += [(first, len(pieces), 1.1) for first in reversed(opened["("])]
    ranges += [(first, len(pieces), 1 / 1.1) for first in reversed(opened["["])]
    out = []
    for i, piece in enumerate(pieces):
        weight = 1.0
        for first, last, factor in ranges:
            weight *= factor if first <= i < last else 1.0
        if piece is None:
            out.append([None, None])
        elif out and out[-1][1] == weight:
            out[-1][0] += piece
        else:
            out.append([piece, weight])
    return out


def chunks(tokenizer, prompt):
    """[(ids, weights)] of 77 each."""
    comma = tokenizer.get_vocab()[",</w>"]
    done, words = [], []
    may_tear_at = None  # behind the last comma of the chunk

    def close(upto):
        nonlocal words, may_tear_at
        done.append(words[:upto])
        words, may_tear_at = words[upto:], None

    for text, weight in parse(prompt):
        if text is None:
            close(len(words))
            continue
        for token in tokenizer(text, add_special_tokens=False, truncation=False).input_ids:
            if len(words) == 75:
                if token != comma and may_tear_at is not None and 75 - (may_tear_at - 1) <= 20:
                    close(may_tear_at)
                else:
                    close(75)
            elif token == comma:
                may_tear_at = len(words) + 1
            words.append((token, weight))
    if words or not done:
        close(len(words))
    out = []
    start, end, pad = tokenizer.bos_token_id, tokenizer.eos_token_id, tokenizer.pad_token_id
    for words in done:
        ids = [start] + [token for token, _ in words] + [end] * (76 - len(words))
        weights = [1.0] + [weight for _, weight in words] + [1.0] * (76 - len(words))
        if pad != end:
            behind = ids.index(end) + 1
            ids[behind:] = [pad] * (77 - behind)
        out.append((ids, weights))
    return out


@torch.no_grad()
def embed(tokenizer, encoder, prompt, count=0):
    parts = chunks(tokenizer, prompt)
    parts += chunks(tokenizer, "") * (count - len(parts))
    out = []
    for ids, weights in parts:
        before = encoder(torch.tensor([ids])).last_hidden_state
        after = before * torch.tensor(weights).reshape(1, -1, 1)
        out.append(after * (before.mean() / after.mean()))
    return torch.cat(out, dim=1)


def picture(folder, tensors):
    """One picture from weighted embeddings of two chunks, by diffusers' own pipeline."""
    pipe = StableDiffusionPipeline.from_pretrained(
        folder / "text", torch_dtype=torch.float32, safety_checker=None, requires_safety_checker=False)
    pipe.set_progress_bar_config(disable=True)
    run = {"prompt": EMBEDDED[2], "negative_prompt": "(blue:1.2), [circle]", "seed": 5, "steps": 4,
           "guidance_scale": 6.0, "width": 64, "height": 64}
    prompt = embed(pipe.tokenizer, pipe.text_encoder, run["prompt"])
    negative = embed(pipe.tokenizer, pipe.text_encoder, run["negative_prompt"], count=2)
    image = pipe(
        prompt_embeds=prompt, negative_prompt_embeds=negative, num_inference_steps=run["steps"], width=64, height=64,
        guidance_scale=run["guidance_scale"], generator=torch.Generator().manual_seed(run["seed"]), output_type="pt",
    ).images[0]
    tensors["picture"] = (image * 255).round().to(torch.uint8).permute(1, 2, 0)
    return run


def make(folder: Path):
    out = folder / "prompts"
    out.mkdir(parents=True, exist_ok=True)
    tokenizer = real_tokenizer()
    plain = [{"prompt": p, "ids": tokenizer(p, truncation=True, max_length=77).input_ids} for p in PLAIN]
    weighted = [{"prompt": p, "pieces": parse(p),
                 "chunks": [{"ids": ids, "weights": weights} for ids, weights in chunks(tokenizer, p)]} for p in A1111]
    tensors = {}
    for name in ("text", "inpaint"):
        small = CLIPTokenizer.from_pretrained(folder / name / "tokenizer")
        encoder = CLIPTextModel.from_pretrained(folder / name / "text_encoder", torch_dtype=torch.float32)
        for i, prompt in enumerate(EMBEDDED):
            tensors[f"{name}.{i}"] = embed(small, encoder, prompt)
            print(f"  {name} {i}: {list(tensors[f'{name}.{i}'].shape)}, mean {tensors[f'{name}.{i}'].mean():.4f}")
    run = picture(folder, tensors)
    goldens = {"plain": plain, "a1111": weighted, "embedded": EMBEDDED, "digests": digests(tokenizer), "run": run}
    lines = ",\n".join(
        f"{json.dumps(key)}: " + (json.dumps(value) if key in ("embedded", "run") else
                                  "[\n" + ",\n".join(json.dumps(item) for item in value) + "\n]")
        for key, value in goldens.items())
    (out / "prompts.json").write_text("{" + lines + "}\n")
    save_file({name: value.contiguous() for name, value in tensors.items()}, out / "prompts.safetensors")


if __name__ == "__main__":
    make(Path(sys.argv[1]))
