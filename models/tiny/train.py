"""Trains the embedded model on a CPU and exports it. Run with --help; see README.md for the whole recipe.

Owns the optimiser, the schedule and the checkpoints. Batches depend only on (seed, step, worker), so a
run that was stopped and resumed sees the same data as one that was not. Workers are processes of one thread, which
share a busy machine far better than threads that wait for each other in every operation.
Schedule: warm up, go fast, go slowly, then decay linearly to zero. From the start of the decay the experts' weights pass through the
export's MXFP4 quantiser (straight-through gradient), so the served weights are the trained ones.
"""

import argparse
import os
import tempfile
import time

os.environ.setdefault("OMP_WAIT_POLICY", "passive")  # waiting threads sleep: the machine may be shared

import torch
import torch.distributed as dist
import torch.nn.functional as F

import data
import export
import harmony_text
from model import GptOss, Shape

WARMUP = 60  # steps
FAST, FAST_UNTIL = (0.012, 3e-3), 300  # learning rates of Muon and AdamW, and the step at which they drop
SLOW = (0.008, 2e-3)
LOUD = 2.0  # size of the first embedding: tokens must be heard above what the layers add
BALANCE = 0.01


def orthogonal(g: torch.Tensor) -> torch.Tensor:
    """Approximate U V^T of the SVD of each matrix in g (..., rows, cols): quintic Newton-Schulz (Jordan 2024, "Muon")."""
    tall = g.shape[-2] > g.shape[-1]
    x = g.mT if tall else g
    x = x / (x.norm(dim=(-2, -1), keepdim=True) + 1e-7)
    for _ in range(5):
        a = x @ x.mT
        x = 3.4445 * x + (-4.7750 * a + 2.0315 * a @ a) @ x
    return x.mT if tall else x


class Muon:
    """Momentum with orthogonalised updates, for the hidden matrices. Workers share the orthogonalising."""

    def __init__(self, params):
        self.params = list(params)
        self.momentum = [torch.zeros_like(p) for p in self.params]

    @torch.no_grad()
    def step(self, lr: float):
        rank, workers = dist.get_rank(), dist.get_world_size()
        updates = []
        for i, (p, m) in enumerate(zip(self.params, self.momentum)):
            m.mul_(0.95).add_(p.grad)
            updates.append(orthogonal(p.grad + 0.95 * m) if i % workers == rank else torch.zeros_like(p))
        for p, update in zip(self.params, summed(updates)):
            p.mul_(1 - 0.02 * lr).add_(update, alpha=-lr * max(1, p.shape[-2] / p.shape[-1]) ** 0.5)


def summed(tensors: list[torch.Tensor]) -> list[torch.Tensor]:
    """Each tensor added up over the workers."""
    flat = torch.cat([t.flatten() for t in tensors])
    if dist.get_world_size() > 1:
        dist.all_reduce(flat)
    return [part.view_as(t) for part, t in zip(flat.split([t.numel() for t in tensors]), tensors)]


def split_parameters(model: GptOss):
    """Hidden matrices (for Muon) and everything else (for AdamW)."""
    hidden, rest = [], []
    for name, p in model.named_parameters():
        matrix = name.startswith("layers") and p.dim() >= 2 and "bias" not in name and "router" not in name
        (hidden if matrix else rest).append(p)
    return hidden, rest


@torch.no_grad()
def start_vocabulary(model: GptOss, rows: torch.Tensor):
    """Related tokens get related rows, and the head begins a little like the embedding: copying is half learned."""
    size = model.s.hidden**-0.5
    model.embed.weight.normal_(std=LOUD)
    model.embed.weight[:-1] = LOUD * rows
    model.lm_head.weight.copy_(size * (0.7 * rows + 0.7 * torch.randn(rows.shape)))


@torch.no_grad()
def start_heads(model: GptOss):
    """Head 0 of layer 0 begins as a previous-token head, head 0 of layer 1 as an induction head.

    Together they copy: find where the last token stood before, and write what followed it (Olsson et al. 2022). Gradient
    descent finds this pair by itself, but spends a good part of a short training on it. Everything here is trained on.
    """
    s, first, second = model.s, model.layers[0].self_attn, model.layers[1].self_attn
    d, half = s.head_dim, s.head_dim // 2
    # Biases alone, turned by one position against each other in the fast frequencies, peak at distance one.
    fast, size = 10, 4.5
    first.q_proj.weight[: 2 * d] *= 0.05
    first.k_proj.weight[:d] *= 0.05
    first.k_proj.bias[:fast] = size
    for head, back in ((0, 1), (1, 2)):  # the group's second head looks two tokens back
        angle = -back * model.inv_freq[:fast]  # a rotation by (position - back) at the query
        first.q_proj.bias[head * d : head * d + fast] = size * angle.cos()
        first.q_proj.bias[head * d + half : head * d + half + fast] = size * angle.sin()
    # Half of the residual is read by the first head and by the second one's queries, the other half is where the first
    # head writes the token before, and where the second one's keys read it. Rotation spoils a match in the fast frequencies.
    basis = F.pad(torch.linalg.qr(torch.randn(s.hidden - 1, s.hidden - 1)).Q, (0, 1))  # orthonormal rows, constant untouched
    reads, writes = basis[:d], F.pad(basis[d:], (0, 0, 0, d - len(basis[d:])))
    keep = torch.ones(half)
    keep[:9] = 0.0
    keep = keep.repeat(2)[:, None]
    first.v_proj.weight[:d] = reads
    first.o_proj.weight[:, :d] = 2 * LOUD * writes.T
    second.q_proj.weight[:d] = 2 * reads * keep
    second.k_proj.weight[:d] = writes * keep
    second.v_proj.weight[:d] = reads
    second.o_proj.weight[:, :d] = 5 * LOUD * reads.T


def rates(step: int, steps: int, decay_from: int) -> tuple[float, float]:
    """Learning rates of Muon and AdamW at a step."""
    if step < FAST_UNTIL:
        factor, (muon, adam) = min(1.0, (step + 1) / WARMUP), FAST
    else:
        factor, (muon, adam) = min(1.0, (steps - step) / (steps - decay_from)), SLOW
    return muon * factor, adam * factor


def arguments() -> argparse.Namespace:
    args = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    args.add_argument("--vocab", required=True, help="o200k_base.tiktoken")
    args.add_argument("--out", default="build/tiny", help="folder for the checkpoint and the exported model")
    args.add_argument("--steps", type=int, default=3600)
    args.add_argument("--decay", type=float, default=0.6, help="share of the steps that decays the learning rate")
    args.add_argument("--budget", type=int, default=1400, help="tokens of a step and worker")
    args.add_argument("--seed", type=int, default=7)
    args.add_argument("--workers", type=int, default=2, help="processes with one thread each")
    args.add_argument("--save-every", type=int, default=50, help="steps between checkpoints")
    args.add_argument("--resume", action="store_true", help="go on from the checkpoint in --out")
    return args.parse_args()


def main():
    a = arguments()
    os.makedirs(a.out, exist_ok=True)
    meeting = tempfile.NamedTemporaryFile(delete=False).name
    os.unlink(meeting)
    torch.multiprocessing.spawn(work, args=(a, "file://" + meeting), nprocs=a.workers)


def work(rank: int, a: argparse.Namespace, meeting: str):
    """One worker: its own batches, gradients averaged over all. Worker 0 prints and saves."""
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=meeting, rank=rank, world_size=a.workers)
    torch.manual_seed(a.seed)
    renderer = harmony_text.Renderer(harmony_text.load_encoding(a.vocab))
    first, saved = 0, os.path.join(a.out, "checkpoint.pt")
    state = torch.load(saved) if a.resume else None  # goes on with its own vocabulary, even if the data changed
    kept = state["kept"] if state else data.trained_tokens(renderer, data.Source(renderer))
    shape = Shape(vocab=len(kept) + 1)
    batches = data.Batches(renderer, kept, shape, a.seed)
    model = GptOss(shape)
    start_vocabulary(model, torch.from_numpy(data.related_rows(renderer, kept, shape.hidden)).float())
    start_heads(model)
    hidden, rest = split_parameters(model)
    muon, adam = Muon(hidden), torch.optim.AdamW(
        [{"params": rest[:1]}, {"params": rest[1:]}], betas=(0.9, 0.98), weight_decay=0.0  # first the embedding
    )
    if rank == 0:
        print(f"{len(kept)} tokens, {sum(p.numel() for p in model.parameters()) / 1e6:.2f} M parameters", flush=True)

    if state:
        model.load_state_dict(state["model"])
        adam.load_state_dict(state["adam"])
        muon.momentum = state["muon"]
        first = state["step"]

    decay_from = int(a.steps * (1 - a.decay))
    began, seen, running = time.time(), 0, []
    for step in range(first, a.steps):
        for layer in model.layers:
            layer.mlp.fake_quant = step >= decay_from
        batch, targets = batches.at(step, rank, a.budget)
        logits, balance = model(batch)
        loss = F.cross_entropy(logits, targets)
        (loss + BALANCE * balance).backward()
        everything = hidden + rest
        for p, total in zip(everything, summed([p.grad for p in everything])):
            p.grad = total / a.workers
        torch.nn.utils.clip_grad_norm_(rest, 1.0)
        muon_rate, adam_rate = rates(step, a.steps, decay_from)
        for group, times in zip(adam.param_groups, (2.0, 1.0)):
            group["lr"] = adam_rate * times
        adam.step()
        muon.step(muon_rate)
        model.zero_grad(set_to_none=True)
        if rank != 0:
            continue

        seen += len(batch.tokens) * a.workers
        running.append((loss.item(), (logits.argmax(-1) == targets).float().mean().item(), float(balance.detach())))
        if (step + 1) % 25 == 0:
            mean, took = torch.tensor(running).mean(0), time.time() - began
            print(
                f"step {step + 1}/{a.steps} loss {mean[0]:.4f} next-token {mean[1]:.4f} balance {mean[2]:.3f} "
                f"{seen / took:.0f} tokens/s {took / 60:.1f} min",
                flush=True,
            )
            running = []
        if (step + 1) % a.save_every == 0 or step + 1 == a.steps:
            state = {"step": step + 1, "kept": kept, "model": model.state_dict(), "adam": adam.state_dict(), "muon": muon.momentum}
            torch.save(state, saved + ".new")
            os.replace(saved + ".new", saved)
    if rank == 0:
        export.write(model, kept, a.out)
        print(f"wrote {a.out} after {(time.time() - began) / 60:.1f} min", flush=True)
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
