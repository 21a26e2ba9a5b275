"""llama2.c's files, `.bin` weights and a `tok*.bin` tokenizer, as a transformers Llama folder."""

from __future__ import annotations

import itertools
import struct
from pathlib import Path

import numpy as np
import torch
from tokenizers import Tokenizer, decoders, models, normalizers, processors
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from partune.runtime.isolation import quiet

UNKNOWN, BEGIN, END = "<unk>", "<s>", "</s>"


def convert(weights: Path, vocabulary: Path, folder: Path) -> None:
    """Writes the model and its tokenizer."""
    model, tokenizer = read_model(weights), read_tokenizer(vocabulary)
    with quiet():
        model.save_pretrained(folder)
        tokenizer.save_pretrained(folder)


def read_model(path: Path) -> LlamaForCausalLM:
    """Header of seven int32, then float32 tensors, each kind for all layers at once; the embeddings are tied."""
    raw = path.read_bytes()
    dim, hidden, layers, heads, kv_heads, vocabulary, context = struct.unpack("<7i", raw[:28])
    assert vocabulary > 0, "a negative size would mean a classifier of its own"
    numbers, place = torch.from_numpy(np.frombuffer(raw, np.float32, offset=28).copy()), 0

    def take(*shape: int) -> torch.Tensor:
        nonlocal place
        place += (size := int(np.prod(shape)))
        return numbers[place - size : place].view(*shape)

    kv_dim = dim * kv_heads // heads
    config = LlamaConfig(
        vocab_size=vocabulary,
        hidden_size=dim,
        intermediate_size=hidden,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        num_key_value_heads=kv_heads,
        max_position_embeddings=context,
        rms_norm_eps=1e-5,
        tie_word_embeddings=True,
        bos_token_id=1,
        eos_token_id=2,
    )
    state = {"model.embed_tokens.weight": take(vocabulary, dim)}
    stacks = {
        "input_layernorm": take(layers, dim),
        "self_attn.q_proj": half_split(take(layers, dim, dim), heads),
        "self_attn.k_proj": half_split(take(layers, kv_dim, dim), kv_heads),
        "self_attn.v_proj": take(layers, kv_dim, dim),
        "self_attn.o_proj": take(layers, dim, dim),
        "post_attention_layernorm": take(layers, dim),
        "mlp.gate_proj": take(layers, hidden, dim),
        "mlp.down_proj": take(layers, dim, hidden),
        "mlp.up_proj": take(layers, hidden, dim),
    }
    for name, stack in stacks.items():
        state |= {f"model.layers.{layer}.{name}.weight": stack[layer] for layer in range(layers)}
    state["model.norm.weight"] = take(dim)
    assert len(numbers) - place == context * dim // heads, "what is left are the rotary tables"
    with torch.random.fork_rng(devices=[]):
        model = LlamaForCausalLM(config)
    state["lm_head.weight"] = state["model.embed_tokens.weight"]
    model.load_state_dict(state)
    return model.eval()


def half_split(stack: torch.Tensor, heads: int) -> torch.Tensor:
    """llama2.c rotates neighbours (2i, 2i + 1) of a head, transformers rotates (i, i + half): rows change places.

    stack: (layers, heads * size, dim), likewise returned.
    """
    layers, rows, dim = stack.shape
    return stack.view(layers, heads, rows // heads // 2, 2, dim).transpose(2, 3).reshape(layers, rows, dim)


def read_pieces(path: Path) -> list[tuple[bytes, float]]:
    """Pieces and their scores, in the order of their ids."""
    raw = path.read_bytes()
    pieces, place = [], 4
    while place < len(raw):
        score, size = struct.unpack("<fi", raw[place : place + 8])
        pieces.append((raw[place + 8 : place + 8 + size], score))
        place += 8 + size
    return pieces


def read_tokenizer(path: Path) -> PreTrainedTokenizerFast:
    """Byte-pair encoding that merges by score, falls back on bytes, and begins every text with a space."""
    pieces = read_pieces(path)
    names = [piece.decode().replace(" ", "▁") for piece, _ in pieces]
    names[:3] = UNKNOWN, BEGIN, END
    scores = {name: score for name, (_, score) in zip(names, pieces, strict=True)}
    splits = [
        (score, name[:cut], name[cut:])
        for name, score in scores.items()
        if len(name) > 1 and not (name.startswith("<") and name.endswith(">"))
        for cut in range(1, len(name))
        if name[:cut] in scores and name[cut:] in scores
    ]
    merges = [(left, right) for _, left, right in sorted(splits, key=lambda split: -split[0])]
    vocabulary = {name: i for i, name in enumerate(names)}
    tokenizer = Tokenizer(models.BPE(vocabulary, merges, unk_token=UNKNOWN, fuse_unk=True, byte_fallback=True))
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    tokenizer.post_processor = processors.TemplateProcessing(single=f"{BEGIN} $A", special_tokens=[(BEGIN, 1)])
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token=UNKNOWN, bos_token=BEGIN, eos_token=END)


def reference_encode(pieces: list[tuple[bytes, float]], text: str) -> list[int]:
    """llama2.c's `encode`: characters or bytes, then the best-scored neighbouring pair is merged until none is left."""
    known = {piece: (i, score) for i, (piece, score) in enumerate(pieces)}
    ids = [known[b" "][0]]
    for character in text:
        raw = character.encode()
        ids += [known[raw][0]] if raw in known else [byte + 3 for byte in raw]
    while True:
        pairs = [(pieces[a][0] + pieces[b][0], place) for place, (a, b) in enumerate(itertools.pairwise(ids))]
        scored = [(known[pair][1], -place, known[pair][0]) for pair, place in pairs if pair in known]
        if not scored:
            return ids
        _, place, merged = max(scored)
        ids[-place : 2 - place] = [merged]
