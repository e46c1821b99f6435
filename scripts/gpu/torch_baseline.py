"""What PyTorch takes for what cuda_speed times: the same shapes, random inputs in more memory than a cache holds, medians
of launches in a graph. Says that it is skipped where PyTorch or a GPU is absent."""

import statistics
import sys


def skip(reason):
    print(f"skipped: {reason}")
    sys.exit(0)


try:
    import torch
    import torch.nn.functional as functional
except ImportError:
    skip("there is no PyTorch")
if not torch.cuda.is_available():
    skip("PyTorch sees no GPU")

HIDDEN, FFN, VOCAB, LENGTH = 4096, 14336, 128256, 2048
ROTATION = 150 << 20


def median(work):
    """Seconds of one launch: samples of a millisecond or more."""
    work(0)
    begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))

    def timed(run):
        begin.record()
        run()
        end.record()
        end.synchronize()
        return begin.elapsed_time(end) / 1e3

    once = max(timed(lambda: work(1)), 1e-6)
    launches = min(max(round(1e-3 / once), 1), 64)

    def all_launches():
        for i in range(launches):
            work(i)

    try:
        graph = torch.cuda.CUDAGraph()
        all_launches()
        with torch.cuda.graph(graph):
            all_launches()
        run = graph.replay
    except RuntimeError as error:
        print(f"without a graph: {str(error).splitlines()[0]}")
        run = all_launches
    run()
    return statistics.median(timed(run) for _ in range(9)) / launches


def random(*shape):
    return torch.rand(*shape, device="cuda", dtype=torch.bfloat16) * 2 - 1


def sets(each):
    """So many of so many bytes are more than a cache holds."""
    return min(max(-(-ROTATION // each), 1), 64)


def line(name, moved, operations, work):
    try:
        seconds = median(work)
        shares = f"{moved / seconds / copy:>10.1%} {operations / seconds / flops:>10.1%}"
        print(f"torch: {name:<41} {seconds * 1e6:>11.1f} {shares}", flush=True)
    except RuntimeError as error:
        print(f"torch: {name:<41} failed: {str(error).splitlines()[0]}", flush=True)


def products(rows):
    shapes = [("qkv", HIDDEN, 6144), ("out", 4096, HIDDEN), ("gate and up", HIDDEN, 2 * FFN), ("down", FFN, HIDDEN),
              ("head", HIDDEN, VOCAB)]
    for name, features, outputs in shapes:
        x = random(rows, features)
        weights = [random(outputs, features) for _ in range(sets(2 * features * outputs))]
        moved = 2 * (features * (rows + outputs) + rows * outputs)
        operations = 2 * rows * features * outputs
        line(f"{name}, {rows} rows", moved, operations, lambda i: torch.mm(x, weights[i % len(weights)].T))


def attention(group, seqs, rows):
    heads, kv, dim = 8 * group, 8, 128
    moved = 4 * seqs * LENGTH * kv * dim
    count = sets(moved)
    keys, values = ([random(seqs, kv, LENGTH, dim) for _ in range(count)] for _ in range(2))
    queries = random(seqs, heads, rows, dim)
    pairs = seqs * (rows * (LENGTH - rows) + rows * (rows + 1) // 2)
    line(f"SDPA, GQA {group}, {seqs} x {rows} rows of {LENGTH} tokens", moved, 4 * pairs * heads * dim,
         lambda i: functional.scaled_dot_product_attention(
             queries, keys[i % count], values[i % count], is_causal=rows > 1, enable_gqa=True))


def sampling(rows):
    logits = torch.rand(rows, VOCAB, device="cuda") * 16 - 8

    def nucleus(_):
        kept, order = torch.topk(logits, 50)
        shares = torch.softmax(kept, -1)
        shares = shares.masked_fill(shares.cumsum(-1) - shares > 0.9, 0)
        return order.gather(-1, torch.multinomial(shares, 1))

    moved = 4 * rows * VOCAB
    line(f"sampling, greedy, {rows} rows", moved, 0, lambda _: logits.argmax(-1))
    line(f"sampling, top-k, top-p, {rows} rows", moved, 0, nucleus)


source, target = random(1 << 29), random(1 << 29)
copy = 2 * 2 * source.numel() / median(lambda _: target.copy_(source))
del source, target
a, b = random(8192, 8192), random(8192, 8192)
flops = 2 * 8192**3 / median(lambda _: torch.mm(a, b))
print(f"torch {torch.__version__}: copies {copy / 1e9:.0f} GB/s, products {flops / 1e12:.1f} TFLOP/s")
with torch.inference_mode():
    for batch in (1, 8, 64):
        products(batch)
        attention(4, batch, 1)
        attention(8, batch, 1)
    products(LENGTH)
    attention(4, 1, LENGTH)
    for batch in (1, 8, 64):
        sampling(batch)
