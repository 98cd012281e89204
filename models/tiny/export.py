"""Writes a trained model in the published gpt-oss layout, and checks that transformers computes the same logits.

Owns the file format: tensor names, dtypes, MXFP4 packing, config values (as in openai/gpt-oss-20b's config.json).
The cut vocabulary becomes the full one: a token without a trained row gets the unknown row as its embedding, and as its
output row zero everywhere but in the constant dimension, where a large negative weight keeps its logit far below
every trained one whatever the input (the constant dimension is 1 / rms(x) after the last norm, always positive).
"""

import argparse
import json
import os
import shutil

import torch
import zstandard
from safetensors.torch import save_file

import mxfp4
from harmony_text import CALL, RETURN, VOCAB_SIZE
from model import GptOss, Shape, pack

ENDOFTEXT = 199999
NEVER = -16384.0  # exact in bf16


def config(s: Shape) -> dict:
    kinds = ["sliding_attention" if i % 2 == 0 else "full_attention" for i in range(s.layers)]
    return {
        "architectures": ["GptOssForCausalLM"],
        "attention_bias": True,
        "attention_dropout": 0.0,
        "eos_token_id": RETURN,
        "experts_per_token": s.top_k,
        "head_dim": s.head_dim,
        "hidden_act": "silu",
        "hidden_size": s.hidden,
        "initial_context_length": s.rope_original,
        "initializer_range": 0.02,
        "intermediate_size": s.intermediate,
        "layer_types": kinds,
        "max_position_embeddings": int(s.rope_original * s.rope_factor),
        "model_type": "gpt_oss",
        "num_attention_heads": s.q_heads,
        "num_experts_per_tok": s.top_k,
        "num_hidden_layers": s.layers,
        "num_key_value_heads": s.kv_heads,
        "num_local_experts": s.experts,
        "output_router_logits": False,
        "pad_token_id": ENDOFTEXT,
        "quantization_config": {
            "modules_to_not_convert": ["model.layers.*.self_attn", "model.layers.*.mlp.router", "model.embed_tokens", "lm_head"],
            "quant_method": "mxfp4",
        },
        "rms_norm_eps": s.eps,
        "rope_scaling": {
            "beta_fast": s.beta_fast,
            "beta_slow": s.beta_slow,
            "factor": s.rope_factor,
            "original_max_position_embeddings": s.rope_original,
            "rope_type": "yarn",
            "truncate": False,
        },
        "rope_theta": int(s.rope_theta),
        "router_aux_loss_coef": 0.9,
        "sliding_window": s.window,
        "swiglu_limit": s.swiglu_limit,
        "tie_word_embeddings": False,
        "torch_dtype": "bfloat16",
        "use_cache": True,
        "vocab_size": VOCAB_SIZE,
    }


def generation_config() -> dict:
    return {"bos_token_id": 199998, "do_sample": True, "eos_token_id": [RETURN, ENDOFTEXT, CALL], "pad_token_id": ENDOFTEXT}


@torch.no_grad()
def tensors(model: GptOss, kept: list[int]) -> dict[str, torch.Tensor]:
    """All tensors of the checkpoint by their published names."""
    out, write = {}, model.writable
    rows = torch.tensor(kept)
    embedding = model.embedding()
    full = embedding[-1].repeat(VOCAB_SIZE, 1)
    full[rows] = embedding[:-1]
    head = torch.zeros(VOCAB_SIZE, model.s.hidden)
    head[:, model.s.const_dim] = NEVER
    head[rows] = model.lm_head.weight
    out["model.embed_tokens.weight"], out["lm_head.weight"] = full, head
    out["model.norm.weight"] = model.final_norm()
    for i, layer in enumerate(model.layers):
        at, attn, mlp = f"model.layers.{i}.", layer.self_attn, layer.mlp
        out[at + "input_layernorm.weight"] = layer.input_layernorm.weight
        out[at + "post_attention_layernorm.weight"] = layer.post_attention_layernorm.weight
        for name in ("q_proj", "k_proj", "v_proj", "o_proj"):
            proj = getattr(attn, name)
            silence = write if name == "o_proj" else torch.ones(1)  # what writes to the residual skips one dimension
            out[f"{at}self_attn.{name}.weight"] = proj.weight * silence[:, None]
            out[f"{at}self_attn.{name}.bias"] = proj.bias * silence
        out[at + "self_attn.sinks"] = attn.sinks
        out[at + "mlp.router.weight"], out[at + "mlp.router.bias"] = mlp.router.weight, mlp.router.bias
        for name, w, b in (("gate_up_proj", mlp.gate_up, mlp.gate_up_bias), ("down_proj", mlp.down * write[:, None], mlp.down_bias * write)):
            blocks, scales = mxfp4.pack(w)
            out[f"{at}mlp.experts.{name}_blocks"], out[f"{at}mlp.experts.{name}_scales"] = blocks, scales
            out[f"{at}mlp.experts.{name}_bias"] = b
    return {k: (v if v.dtype == torch.uint8 else v.bfloat16()).contiguous() for k, v in out.items()}


def write(model: GptOss, kept: list[int], folder: str):
    os.makedirs(folder, exist_ok=True)
    path = os.path.join(folder, "model.safetensors")
    save_file(tensors(model, kept), path, metadata={"format": "pt"})
    os.chmod(path, 0o644)
    for name, value in (("config.json", config(model.s)), ("generation_config.json", generation_config())):
        with open(os.path.join(folder, name), "w") as f:
            f.write(json.dumps(value, indent=2) + "\n")


def compress(folder: str, to: str):
    """What the repository holds of an exported folder: the configs and model.safetensors.zst."""
    for name in ("config.json", "generation_config.json"):
        shutil.copyfile(os.path.join(folder, name), os.path.join(to, name))
    with open(os.path.join(folder, "model.safetensors"), "rb") as f:
        packed = zstandard.ZstdCompressor(level=19, write_checksum=True).compress(f.read())
    with open(os.path.join(to, "model.safetensors.zst"), "wb") as f:
        f.write(packed)


def unpack(folder: str):
    """Puts model.safetensors beside model.safetensors.zst, unless it is there and newer."""
    plain = os.path.join(folder, "model.safetensors")
    packed = plain + ".zst"
    if os.path.exists(packed) and not (os.path.exists(plain) and os.path.getmtime(plain) >= os.path.getmtime(packed)):
        with open(packed, "rb") as source, open(plain, "wb") as target:
            zstandard.ZstdDecompressor().copy_stream(source, target)


def load_published(folder: str):
    """The exported folder in transformers: MXFP4 dequantised, all weights and arithmetic in f32."""
    unpack(folder)
    from transformers import GptOssForCausalLM, Mxfp4Config

    return GptOssForCausalLM.from_pretrained(
        folder, dtype=torch.float32, quantization_config=Mxfp4Config(dequantize=True), attn_implementation="eager"
    ).eval()


@torch.no_grad()
def as_served(model: GptOss) -> GptOss:
    """`model` with its weights rounded in place as the file rounds them."""
    for layer in model.layers:
        layer.mlp.fake_quant = False
    for name, p in model.named_parameters():
        p.copy_(mxfp4.quantize(p) if name.endswith(("mlp.gate_up", "mlp.down")) else p.bfloat16().float())
    return model


@torch.no_grad()
def verify(model: GptOss, kept: list[int], folder: str) -> float:
    """Largest difference of a log-probability between `model` as served and transformers on the exported folder."""
    published, model = load_published(folder), as_served(model)
    generator, worst = torch.Generator().manual_seed(3), 0.0
    for length in (5, 60, 300):
        tokens = torch.randint(len(kept), (1, length), generator=generator)
        whole = range(length)
        ours, _ = model(pack(tokens[0], torch.arange(length), torch.arange(length), [(range(0), whole)], model.s))
        theirs = published(torch.tensor(kept)[tokens]).logits[0]
        gap = ours.log_softmax(-1) - theirs.log_softmax(-1)[:, torch.tensor(kept)]
        worst = max(worst, gap.abs().max().item())
    return worst


def main():
    args = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    args.add_argument("--out", default="build/tiny", help="folder with checkpoint.pt, written by train.py")
    args.add_argument("--to", help="also put the configs and the compressed weights into this folder (models/tiny)")
    a = args.parse_args()
    state = torch.load(os.path.join(a.out, "checkpoint.pt"))
    model = GptOss(Shape(vocab=len(state["kept"]) + 1))
    model.load_state_dict(state["model"])
    write(model, state["kept"], a.out)
    print(f"step {state['step']}: largest log-probability gap to transformers {verify(model, state['kept'], a.out):.2e}")
    if a.to:
        compress(a.out, a.to)
        print(f"{os.path.getsize(os.path.join(a.to, 'model.safetensors.zst')) / 1e6:.2f} MB compressed")


if __name__ == "__main__":
    main()
