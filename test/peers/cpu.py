# The peers of `npm run bench:cpu`: eager PyTorch and OpenBLAS's own threads. Reads one JSON request a line, runs the case
# once (or `repeat` times), answers with the seconds it took. Written as a PyTorch user would write it: the paper's
# PolyNorm and PolyReLU, a Llama-like transformer, experts in a loop over index_add_.
import ctypes
import json
import os
import sys
import time

import torch
import torch.nn as nn
import torch.nn.functional as F

threads = int(os.environ.get('OPENBLAS_NUM_THREADS', '2'))
torch.set_num_threads(threads)
torch.manual_seed(1)

openblas = ctypes.CDLL('libopenblas.so.0')
openblas.openblas_set_num_threads(threads)
openblas.openblas_get_config.restype = ctypes.c_char_p
openblas.openblas_get_corename.restype = ctypes.c_char_p


def sgemm(ta, tb, m, n, k, a, b, c):
    f = ctypes.c_float
    openblas.cblas_sgemm(101, 112 if ta else 111, 112 if tb else 111, m, n, k, f(1), ctypes.c_void_p(a.data_ptr()),
                         m if ta else k, ctypes.c_void_p(b.data_ptr()), k if tb else n, f(0),
                         ctypes.c_void_p(c.data_ptr()), n)


class PolyReLU(nn.Module):
    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(3) / 3)
        self.bias = nn.Parameter(torch.zeros(1))

    def forward(self, x):
        p = F.relu(x)
        return self.weight[0] * p**3 + self.weight[1] * p**2 + self.weight[2] * p + self.bias


class PolyNorm(nn.Module):
    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(3) / 3)
        self.bias = nn.Parameter(torch.zeros(1))

    def norm(self, x):
        return x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + 1e-6)

    def forward(self, x):
        return (self.weight[0] * self.norm(x**3) + self.weight[1] * self.norm(x**2) + self.weight[2] * self.norm(x)
                + self.bias)


class RMSNorm(nn.Module):
    def __init__(self, d):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(d))

    def forward(self, x):
        return x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + 1e-5) * self.weight


class Attention(nn.Module):
    def __init__(self, d, heads, t):
        super().__init__()
        self.heads, self.size = heads, d // heads
        self.q, self.k, self.v, self.o = (nn.Linear(d, d, bias=False) for _ in range(4))
        angle = torch.arange(t)[:, None] / 10000 ** (torch.arange(0, self.size, 2) / self.size)[None]
        self.cos, self.sin = torch.cat([angle.cos()] * 2, -1), torch.cat([angle.sin()] * 2, -1)
        self.mask = torch.full((t, t), float('-inf')).triu(1)

    def rope(self, x):
        a, b = x.chunk(2, -1)
        return x * self.cos + torch.cat([-b, a], -1) * self.sin

    def forward(self, x):
        b, t, d = x.shape
        q, k, v = (w(x).view(b, t, self.heads, self.size).transpose(1, 2) for w in (self.q, self.k, self.v))
        q, k = self.rope(q), self.rope(k)
        p = F.softmax(q @ k.transpose(-1, -2) / self.size**0.5 + self.mask, -1)
        return self.o((p @ v).transpose(1, 2).reshape(b, t, d))


class Mlp(nn.Module):
    def __init__(self, d, hidden):
        super().__init__()
        self.up, self.down, self.act = nn.Linear(d, hidden, bias=False), nn.Linear(hidden, d, bias=False), PolyNorm()

    def forward(self, x):
        return self.down(self.act(self.up(x))), 0


class Moe(nn.Module):
    def __init__(self, d, hidden, experts, k):
        super().__init__()
        self.k, self.act = k, PolyNorm()
        self.gate = nn.Linear(d, experts, bias=False)
        self.up = nn.ModuleList(nn.Linear(d, hidden, bias=False) for _ in range(experts))
        self.down = nn.ModuleList(nn.Linear(hidden, d, bias=False) for _ in range(experts))

    def forward(self, x):
        shape = x.shape
        x = x.reshape(-1, shape[-1])
        logits = self.gate(x)
        probs = F.softmax(logits, -1)
        weights, chosen = probs.topk(self.k, -1)
        y = torch.zeros_like(x)
        for e in range(len(self.up)):
            row, slot = torch.where(chosen == e)
            h = self.down[e](self.act(self.up[e](x[row])))
            y.index_add_(0, row, h * weights[row, slot, None])
        share = F.one_hot(chosen, len(self.up)).float().sum((0, 1)) / chosen.numel()
        aux = len(self.up) * (share * probs.mean(0)).sum()
        z = logits.logsumexp(-1).pow(2).mean()
        return y.view(shape), 0.01 * aux + 0.001 * z


class Block(nn.Module):
    def __init__(self, c):
        super().__init__()
        self.norm1, self.norm2 = RMSNorm(c['width']), RMSNorm(c['width'])
        self.attention = Attention(c['width'], c['heads'], c['seq'])
        self.ffn = Moe(c['width'], c['hidden'], c['experts'], c['topK']) if c['experts'] else Mlp(c['width'], c['hidden'])

    def forward(self, x):
        x = x + self.attention(self.norm1(x))
        y, aux = self.ffn(self.norm2(x))
        return x + y, aux


class Model(nn.Module):
    def __init__(self, c):
        super().__init__()
        self.embed = nn.Embedding(c['vocab'], c['width'])
        self.blocks = nn.ModuleList(Block(c) for _ in range(c['layers']))
        self.norm, self.head = RMSNorm(c['width']), nn.Linear(c['width'], c['vocab'], bias=False)
        for p in self.parameters():
            if p.dim() > 1:
                nn.init.normal_(p, std=0.02)

    def forward(self, ids, targets):
        x, aux = self.embed(ids), 0
        for block in self.blocks:
            x, a = block(x)
            aux = aux + a / len(self.blocks)
        return F.cross_entropy(self.head(self.norm(x)).flatten(0, 1), targets.flatten()) + aux


class Activation:
    def __init__(self, r):
        self.f = PolyNorm() if r['kind'] == 'polyNorm' else PolyReLU()
        self.x = torch.randn(r['rows'], r['cols'], requires_grad=True)
        self.dy = torch.randn(r['rows'], r['cols'])

    def run(self):
        self.f(self.x).backward(self.dy)
        self.x.grad = self.f.weight.grad = self.f.bias.grad = None


class Step:
    def __init__(self, r):
        self.model = Model(r)
        self.optimizer = torch.optim.AdamW(self.model.parameters(), lr=1e-3, betas=(0.9, 0.95), weight_decay=0.1)
        self.ids = torch.randint(0, r['vocab'], (r['batch'], r['seq'] + 1))

    def run(self):
        self.optimizer.zero_grad(set_to_none=True)
        self.model(self.ids[:, :-1], self.ids[:, 1:]).backward()
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        self.optimizer.step()


class Products:
    """Products of OpenBLAS with its own threads: [transposeA, transposeB, m, n, k, count]."""

    def __init__(self, r):
        self.shapes = r['products']
        self.data = [(torch.randn(m * k), torch.randn(k * n), torch.empty(m * n)) for _, _, m, n, k, _ in self.shapes]

    def run(self):
        for (ta, tb, m, n, k, count), (a, b, c) in zip(self.shapes, self.data):
            for _ in range(count):
                sgemm(ta, tb, m, n, k, a, b, c)


kinds = {'polyNorm': Activation, 'polyRelu': Activation, 'step': Step, 'products': Products}
made = {}
print(json.dumps({'torch': torch.__version__, 'threads': threads, 'blas': openblas.openblas_get_config().decode(),
                  'core': openblas.openblas_get_corename().decode()}), flush=True)
for line in sys.stdin:
    request = json.loads(line)
    key = json.dumps(request['case_'], sort_keys=True)
    if key not in made:
        made[key] = kinds[request['case_']['kind']](request['case_'])
    repeat = request.get('repeat', 1)
    start = time.perf_counter()
    for _ in range(repeat):
        made[key].run()
    print(json.dumps({'seconds': (time.perf_counter() - start) / repeat}), flush=True)
    if request.get('forget'):
        del made[key]
