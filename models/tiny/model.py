"""The training-time GPT-OSS: the same function as transformers' `GptOssForCausalLM`, over a cut vocabulary.

Owns the forward pass used for training and nothing else: no data, no files. It differs from the published
module only in how it is computed: experts run on gathered rows, several conversations share one row through
an explicit (position, segment) mask, and the vocabulary is the list of trained tokens plus one row for
"any other token". `export.py` puts the rows back and checks that transformers computes the same logits.

Invariant: residual dimension `CONST_DIM` holds the constant 1 that every embedding row writes and that no
layer changes. A row of the output head can therefore be pushed to -infinity for every possible input by one
large negative weight in that dimension: that is how untrained tokens are kept from ever being sampled.
"""

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import nn

import mxfp4


@dataclass
class Shape:
    """Sizes of the model. `vocab` counts trained tokens plus the unknown row, which comes last."""

    vocab: int
    hidden: int = 128
    layers: int = 4
    q_heads: int = 4
    kv_heads: int = 2
    head_dim: int = 64
    intermediate: int = 128
    experts: int = 8
    top_k: int = 2
    window: int = 128
    eps: float = 1e-5
    rope_theta: float = 150000.0
    rope_factor: float = 32.0
    rope_original: int = 4096
    beta_fast: float = 32.0
    beta_slow: float = 1.0
    swiglu_alpha: float = 1.702
    swiglu_limit: float = 7.0

    @property
    def const_dim(self) -> int:
        """The residual dimension no layer writes to."""
        return self.hidden - 1


def yarn(shape: Shape) -> tuple[torch.Tensor, float]:
    """Inverse frequencies (head_dim / 2,) and the factor on cos and sin, after the YaRN paper (arXiv 2309.00071).

    Not truncated (`truncate: false` in the published config): the ramp's ends stay fractional.
    """
    dim, base = shape.head_dim, shape.rope_theta
    freqs = base ** (-torch.arange(0, dim, 2, dtype=torch.float32) / dim)

    def dim_of(rotations: float) -> float:
        return dim * math.log(shape.rope_original / (rotations * 2 * math.pi)) / (2 * math.log(base))

    low, high = max(dim_of(shape.beta_fast), 0), min(dim_of(shape.beta_slow), dim - 1)
    ramp = ((torch.arange(dim // 2, dtype=torch.float32) - low) / (high - low)).clamp(0, 1)
    inv_freq = freqs / shape.rope_factor * ramp + freqs * (1 - ramp)
    return inv_freq, 0.1 * math.log(shape.rope_factor) + 1.0


class RmsNorm(nn.Module):
    def __init__(self, hidden: int, eps: float):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(hidden))
        self.eps = eps

    def forward(self, x):
        return x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + self.eps) * self.weight


class Attention(nn.Module):
    def __init__(self, s: Shape):
        super().__init__()
        self.s = s
        self.q_proj = nn.Linear(s.hidden, s.q_heads * s.head_dim)
        self.k_proj = nn.Linear(s.hidden, s.kv_heads * s.head_dim)
        self.v_proj = nn.Linear(s.hidden, s.kv_heads * s.head_dim)
        self.o_proj = nn.Linear(s.q_heads * s.head_dim, s.hidden)
        self.sinks = nn.Parameter(torch.zeros(s.q_heads))

    def forward(self, x, cos, sin, batch: "Batch", sliding: bool):
        """x (tokens, hidden); cos, sin (tokens, 1, head_dim / 2).

        A sink is a key that every query scores with the head's own constant and whose value is zero. It becomes an
        ordinary key here, row 0 of the keys: queries are widened by 8 numbers, a 1 in the place of their head within
        its group, and the sink's key has the constants of the group's heads in these places (other keys have zeros).
        """
        s, n = self.s, x.shape[0]
        group, wide, scale = s.q_heads // s.kv_heads, s.head_dim + 8, s.head_dim**-0.5
        q = rotate(self.q_proj(x).view(n, s.q_heads, s.head_dim), cos, sin)
        k = rotate(self.k_proj(x).view(n, s.kv_heads, s.head_dim), cos, sin)
        v = self.v_proj(x).view(n, s.kv_heads, s.head_dim)
        place = torch.eye(group, 8).repeat(s.kv_heads, 1)  # (q_heads, 8)
        q = torch.cat([q, place.expand(n, -1, -1)], -1).view(n, s.q_heads * wide)
        sink = F.pad(self.sinks.view(1, s.kv_heads, group) / scale, (s.head_dim, 8 - group))
        k = torch.cat([sink, F.pad(k, (0, 8))]).view(n + 1, s.kv_heads * wide)
        v = F.pad(v, (0, 8, 0, 0, 1, 0)).view(n + 1, s.kv_heads * wide)

        outs = []
        for part in batch.parts:
            (g, lq), lk = part.queries.shape, part.keys.shape[1]
            # heads of one group stand below each other, so that they share keys: (g, kv_heads, group * lq, wide)
            qp = q.index_select(0, part.queries.flatten()).view(g, lq, s.kv_heads, group, wide)
            qp = qp.permute(0, 2, 3, 1, 4).reshape(g, s.kv_heads, group * lq, wide)
            kp = k.index_select(0, part.keys.flatten()).view(g, lk, s.kv_heads, wide).transpose(1, 2)
            vp = v.index_select(0, part.keys.flatten()).view(g, lk, s.kv_heads, wide).transpose(1, 2)
            mask = part.sliding if sliding else part.full
            out = F.scaled_dot_product_attention(qp, kp, vp, attn_mask=mask, scale=scale)[..., : s.head_dim]
            out = out.view(g, s.kv_heads, group, lq, s.head_dim).permute(0, 3, 1, 2, 4)
            outs.append(out.reshape(g * lq, s.q_heads * s.head_dim))
        return self.o_proj(torch.cat(outs).index_select(0, batch.back))


def rotate(x, cos, sin):
    """Rotary embedding on the two halves of the head (not on neighbouring pairs)."""
    a, b = x.chunk(2, -1)
    return torch.cat([a * cos - b * sin, b * cos + a * sin], -1)


class Experts(nn.Module):
    """Top-k mixture. Weights are stored as in the checkpoint: (experts, out, in), gate and up rows interleaved."""

    def __init__(self, s: Shape):
        super().__init__()
        self.s = s
        self.router = nn.Linear(s.hidden, s.experts)
        self.gate_up = nn.Parameter(torch.empty(s.experts, 2 * s.intermediate, s.hidden))
        self.gate_up_bias = nn.Parameter(torch.zeros(s.experts, 2 * s.intermediate))
        self.down = nn.Parameter(torch.empty(s.experts, s.hidden, s.intermediate))
        self.down_bias = nn.Parameter(torch.zeros(s.experts, s.hidden))
        self.fake_quant = False

    def forward(self, x):
        """x (tokens, hidden) -> same, and the load-balancing loss (Shazeer et al. 2017, as in Switch)."""
        s = self.s
        logits = self.router(x)
        top, index = logits.topk(s.top_k, -1)
        weight = top.softmax(-1)
        w1, w2 = self.gate_up, self.down
        if self.fake_quant:
            w1, w2 = mxfp4.straight_through(w1), mxfp4.straight_through(w2)
        gate_w, up_w = w1[:, 0::2].transpose(1, 2), w1[:, 1::2].transpose(1, 2)
        gate_b, up_b = self.gate_up_bias[:, 0::2], self.gate_up_bias[:, 1::2]

        flat = index.flatten()
        order = flat.argsort(stable=True)  # rows grouped by expert
        counts = torch.bincount(flat, minlength=s.experts)
        rows = x.index_select(0, order // s.top_k).split(counts.tolist())
        outs = []
        for e, r in enumerate(rows):
            gate = torch.addmm(gate_b[e], r, gate_w[e]).clamp(max=s.swiglu_limit)
            up = torch.addmm(up_b[e], r, up_w[e]).clamp(-s.swiglu_limit, s.swiglu_limit)
            act = (up + 1) * gate * torch.sigmoid(s.swiglu_alpha * gate)
            outs.append(torch.addmm(self.down_bias[e], act, w2[e].T))
        back = torch.empty_like(order)
        back[order] = torch.arange(order.numel())
        out = torch.cat(outs).index_select(0, back).view(-1, s.top_k, s.hidden)
        out = (out * weight.unsqueeze(-1)).sum(1)

        share = counts.float() / counts.sum()
        balance = s.experts * (share * logits.softmax(-1).mean(0)).sum()
        return out, balance


class Layer(nn.Module):
    def __init__(self, s: Shape):
        super().__init__()
        self.input_layernorm = RmsNorm(s.hidden, s.eps)
        self.self_attn = Attention(s)
        self.post_attention_layernorm = RmsNorm(s.hidden, s.eps)
        self.mlp = Experts(s)


class GptOss(nn.Module):
    def __init__(self, s: Shape):
        super().__init__()
        self.s = s
        self.embed = nn.Embedding(s.vocab, s.hidden)
        self.layers = nn.ModuleList(Layer(s) for _ in range(s.layers))
        self.norm = RmsNorm(s.hidden, s.eps)
        self.lm_head = nn.Linear(s.hidden, s.vocab - 1, bias=False)  # the unknown row has no output
        inv_freq, self.rope_scale = yarn(s)
        self.register_buffer("inv_freq", inv_freq, persistent=False)
        writable = torch.ones(s.hidden)
        writable[s.const_dim] = 0.0
        self.register_buffer("writable", writable, persistent=False)
        self.init_weights()

    def init_weights(self):
        s = self.s
        nn.init.normal_(self.embed.weight, std=0.7)
        nn.init.normal_(self.lm_head.weight, std=s.hidden**-0.5)
        for layer in self.layers:
            for w in (layer.mlp.gate_up, layer.mlp.down):
                nn.init.normal_(w, std=w.shape[-1] ** -0.5)
            for proj in (layer.self_attn.q_proj, layer.self_attn.k_proj, layer.self_attn.v_proj, layer.self_attn.o_proj):
                nn.init.normal_(proj.weight, std=s.hidden**-0.5)
                nn.init.zeros_(proj.bias)
            nn.init.normal_(layer.mlp.router.weight, std=s.hidden**-0.5)
            nn.init.zeros_(layer.mlp.router.bias)
            # residual writers start small: depth-scaled as in GPT-2
            with torch.no_grad():
                layer.self_attn.o_proj.weight.mul_((2 * s.layers) ** -0.5)
                layer.mlp.down.mul_((2 * s.layers) ** -0.5)

    def embedding(self) -> torch.Tensor:
        """Embedding table (vocab, hidden) with the constant dimension set."""
        return self.embed.weight * self.writable + (1 - self.writable)

    def final_norm(self) -> torch.Tensor:
        """The last norm's weight; 1 in the constant dimension, so that dimension stays positive."""
        return self.norm.weight * self.writable + (1 - self.writable)

    def forward(self, batch: "Batch"):
        """Logits (len(batch.wanted), vocab - 1) at the wanted tokens, and the mean balance loss."""
        s = self.s
        angles = batch.positions[:, None, None].float() * self.inv_freq
        cos, sin = angles.cos() * self.rope_scale, angles.sin() * self.rope_scale
        x = F.embedding(batch.tokens, self.embedding())
        balance = 0.0
        for i, layer in enumerate(self.layers):
            x = x + layer.self_attn(layer.input_layernorm(x), cos, sin, batch, sliding=i % 2 == 0) * self.writable
            h, aux = layer.mlp(layer.post_attention_layernorm(x))
            x = x + h * self.writable
            balance = balance + aux / s.layers
        x = x.index_select(0, batch.wanted)
        x = x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + s.eps) * self.final_norm()
        return self.lm_head(x), balance


@dataclass
class Part:
    """Some sequences of similar length, padded to rectangles for the attention. Padded places point to row 0."""

    queries: torch.Tensor  # (sequences, lq) rows of the batch
    keys: torch.Tensor  # (sequences, lk) rows of the batch plus 1; row 0 and the first column are the sink
    full: torch.Tensor  # (sequences, 1, group * lq, lk) additive mask
    sliding: torch.Tensor


@dataclass
class Batch:
    """Packed dialogues without padding. Sequences that begin alike share the rows of their beginning."""

    tokens: torch.Tensor  # (tokens,) indices into the cut vocabulary
    positions: torch.Tensor  # (tokens,)
    wanted: torch.Tensor  # rows whose next token is predicted
    parts: list[Part]
    back: torch.Tensor  # (tokens,) where each row is in the parts' queries, laid end to end


def pack(tokens, positions, wanted, sequences: list[tuple[range, range]], shape: Shape, buckets: int = 8) -> Batch:
    """`sequences`: rows of a shared beginning (may be empty), rows of the rest. Every row is in the rest of exactly one."""
    order = sorted(sequences, key=lambda s: len(s[0]) + len(s[1]))
    tokens, positions = torch.as_tensor(tokens), torch.as_tensor(positions)
    back, parts, done = torch.empty_like(tokens), [], 0
    per = max(1, -(-len(order) // buckets))
    for start in range(0, len(order), per):
        some = order[start : start + per]
        lq, lk = max(len(rest) for _, rest in some), 1 + max(len(a) + len(b) for a, b in some)
        queries = torch.zeros(len(some), lq, dtype=torch.long)
        keys = torch.zeros(len(some), lk, dtype=torch.long)
        for i, (shared, rest) in enumerate(some):
            queries[i, : len(rest)] = torch.arange(rest.start, rest.stop)
            keys[i, 1 : 1 + len(shared)] = torch.arange(shared.start, shared.stop) + 1
            keys[i, 1 + len(shared) : 1 + len(shared) + len(rest)] = torch.arange(rest.start, rest.stop) + 1
            back[rest.start : rest.stop] = torch.arange(done + i * lq, done + i * lq + len(rest))
        done += len(some) * lq
        ahead = positions[queries][:, :, None] - positions[(keys - 1).clamp(min=0)][:, None, :]  # how far back a key is
        see = (ahead >= 0) & (keys > 0)[:, None, :]
        near = see & (ahead < shape.window)
        see[:, :, 0] = near[:, :, 0] = True  # the sink
        group = shape.q_heads // shape.kv_heads
        additive = [torch.zeros(m.shape).masked_fill(~m, -1e30).repeat(1, group, 1).unsqueeze(1) for m in (see, near)]
        parts.append(Part(queries, keys, *additive))
    return Batch(tokens, positions, torch.as_tensor(wanted), parts, back)
