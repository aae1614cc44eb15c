# What `polygrad bench --peers` measures beside our kernels: PyTorch eager and compiled, its cuBLAS products and its
# attention, and Liger's PolyNorm where it is installed. Reads one JSON request a line, runs the case `repeat` times on
# rotating buffers, answers with the seconds of one run: device events on a GPU, the wall clock on a CPU.
import json
import os
import sys
import time

import torch
import torch.nn.functional as F

device = sys.argv[1] if len(sys.argv) > 1 else 'cpu'
cuda = device == 'cuda'
if not cuda and 'POLYGRAD_THREADS' in os.environ:
    torch.set_num_threads(int(os.environ['POLYGRAD_THREADS']))
torch.manual_seed(1)
dtypes = {'float32': torch.float32, 'bfloat16': torch.bfloat16, 'float16': torch.float16}


def poly_relu(x, w, b):
    p = F.relu(x)
    return w[0] * p**3 + w[1] * p**2 + w[2] * p + b


def unit(x):
    return x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + 1e-6)


def poly_norm(x, w, b):
    x = x.float()  # as the paper's code under autocast: powers and means in float32
    return w[0] * unit(x**3) + w[1] * unit(x**2) + w[2] * unit(x) + b


def rms_norm(x, weight):
    return F.rms_norm(x, x.shape[-1:], weight, 1e-5) if hasattr(F, 'rms_norm') else unit(x) * weight


class Sets:
    """`make` once a set; `run` takes them in turns."""

    def __init__(self, request, make, run):
        self.data = [make() for _ in range(request.get('sets', 1))]
        self.one, self.turn = run, 0

    def run(self):
        self.one(self.data[self.turn % len(self.data)])
        self.turn += 1


def compiled(fn, variant):
    return torch.compile(fn, dynamic=False) if variant == 'compile' else fn


def elementwise(request, kind, variant, dtype):
    """The activations and norms: forward, or backward through a graph that is kept."""
    rows, cols = request['rows'], request['cols']
    w = torch.tensor([0.5, -0.3, 0.8], device=device, requires_grad=True)
    b = torch.tensor([0.1], device=device, requires_grad=True)
    scale = torch.randn(cols, device=device, dtype=dtype, requires_grad=True)
    if variant == 'liger':
        from liger_kernel.ops.poly_norm import LigerPolyNormFunction
        if kind != 'polyNorm':
            raise ValueError('liger has no ' + kind)
        fn = lambda x, up: LigerPolyNormFunction.apply(x, w, b)
    else:
        fn = compiled({'polyRelu': lambda x, up: poly_relu(x, w, b).to(x.dtype),
                       'polyNorm': lambda x, up: poly_norm(x, w, b).to(x.dtype),
                       'polyNormGlu': lambda x, up: (poly_norm(x, w, b) * up).to(x.dtype),
                       'rmsNorm': lambda x, up: rms_norm(x, scale)}[kind], variant)
    leaves = [scale] if kind == 'rmsNorm' else [w, b]
    new = lambda grad: torch.randn(rows, cols, device=device, dtype=dtype, requires_grad=grad)
    if request['pass'] == 'forward':
        def run(s):
            with torch.no_grad():
                fn(*s)
        return Sets(request, lambda: (new(False), new(False)), run)

    def make():
        x, up = new(True), new(kind == 'polyNormGlu')
        return fn(x, up), [x] + ([up] if kind == 'polyNormGlu' else []) + leaves, torch.randn(rows, cols, device=device, dtype=dtype)

    return Sets(request, make, lambda s: torch.autograd.grad(s[0], s[1], s[2], retain_graph=True))


def gemm(request, variant, dtype):
    if variant != 'eager':
        raise ValueError('torch.matmul is the same compiled')
    m, n, k, layout = (request[key] for key in ('m', 'n', 'k', 'layout'))
    new = lambda r, c: torch.randn(r, c, device=device, dtype=dtype)
    make = lambda: (new(m, k) if layout[0] == 'N' else new(k, m).t(), new(k, n) if layout[1] == 'N' else new(n, k).t())
    return Sets(request, make, lambda s: s[0] @ s[1])


def attention(request, variant, dtype):
    if variant != 'eager':
        raise ValueError('scaled_dot_product_attention is the same compiled')
    shape = [request[key] for key in ('batch', 'heads', 'tokens', 'dim')]
    backward = request['pass'] == 'backward'
    new = lambda: torch.randn(shape, device=device, dtype=dtype, requires_grad=backward)
    sdpa = lambda q, k, v: F.scaled_dot_product_attention(q, k, v, is_causal=True)
    if not backward:
        return Sets(request, lambda: (new(), new(), new()), lambda s: sdpa(*s))

    def make():
        inputs = (new(), new(), new())
        return sdpa(*inputs), inputs, torch.randn(shape, device=device, dtype=dtype)

    return Sets(request, make, lambda s: torch.autograd.grad(s[0], s[1], s[2], retain_graph=True))


def parameter(*shape, dtype):
    return (0.02 * torch.randn(shape, device=device)).to(dtype).requires_grad_()


def activation(act):
    w = torch.full((3,), 1 / 3, device=device, requires_grad=True)
    b = torch.zeros(1, device=device, requires_grad=True)
    return (poly_norm if act == 'polynorm' else poly_relu), w, b


def ffn(request, variant, dtype):
    tokens, width, hidden, act = (request[key] for key in ('tokens', 'width', 'hidden', 'act'))
    up, down = parameter(hidden, width, dtype=dtype), parameter(width, hidden, dtype=dtype)
    gate = parameter(hidden, width, dtype=dtype)
    if act == 'swiglu':
        leaves = [up, down, gate]
        fn = lambda x: F.linear(F.silu(F.linear(x, gate)) * F.linear(x, up), down)
    else:
        f, w, b = activation(act)
        leaves = [up, down, w, b]
        fn = lambda x: F.linear(f(F.linear(x, up), w, b).to(x.dtype), down)
    fn = compiled(fn, variant)
    make = lambda: (torch.randn(tokens, width, device=device, dtype=dtype, requires_grad=True),
                    torch.randn(tokens, width, device=device, dtype=dtype))
    return Sets(request, make, lambda s: torch.autograd.grad(fn(s[0]), [s[0]] + leaves, s[1]))


def moe(request, variant, dtype):
    tokens, width, hidden, experts, k = (request[key] for key in ('tokens', 'width', 'hidden', 'experts', 'topK'))
    router = parameter(experts, width, dtype=torch.float32)
    up, down = parameter(experts, width, hidden, dtype=dtype), parameter(experts, hidden, width, dtype=dtype)
    f, w, b = activation('polynorm')
    grouped = getattr(torch, '_grouped_mm', None) if cuda else None

    def fn(x):
        weights, chosen = F.softmax(F.linear(x.float(), router), -1).topk(k, -1)
        order = chosen.flatten().argsort(stable=True)
        rows = x[order // k]
        counts = torch.bincount(chosen.flatten(), minlength=experts)
        if grouped:
            ends = counts.cumsum(0).to(torch.int32)
            y = grouped(f(grouped(rows, up, ends), w, b).to(x.dtype), down, ends)
        else:
            parts = rows.split(counts.tolist())
            y = torch.cat([f(part @ up[e], w, b).to(x.dtype) @ down[e] for e, part in enumerate(parts)])
        y = y * weights.flatten()[order, None].to(x.dtype)
        return torch.zeros_like(x).index_add(0, order // k, y)

    if variant == 'compile':
        raise ValueError('the loop over experts is not compiled')
    make = lambda: (torch.randn(tokens, width, device=device, dtype=dtype, requires_grad=True),
                    torch.randn(tokens, width, device=device, dtype=dtype))
    return Sets(request, make, lambda s: torch.autograd.grad(fn(s[0]), [s[0], router, up, down, w, b], s[1]))


def cross_entropy(request, variant, dtype):
    rows, classes = request['rows'], request['classes']
    fn = compiled(lambda x, t: F.cross_entropy(x.float(), t), variant)
    make = lambda: (torch.randn(rows, classes, device=device, dtype=dtype, requires_grad=True),
                    torch.randint(0, classes, (rows,), device=device))
    return Sets(request, make, lambda s: torch.autograd.grad(fn(*s), s[0]))


def copy(request, variant, dtype):
    if variant != 'eager':
        raise ValueError('a copy is the same compiled')
    n = request['elements']
    make = lambda: (torch.randn(n, device=device, dtype=dtype), torch.empty(n, device=device, dtype=dtype))
    return Sets(request, make, lambda s: s[1].copy_(s[0]))


def adamw(request, variant, dtype):
    if variant != 'eager':
        raise ValueError('the fused optimiser is measured as eager')

    def make():
        p = torch.randn(request['elements'], device=device, requires_grad=True)
        p.grad = torch.randn_like(p)
        options = dict(lr=1e-3, betas=(0.9, 0.95), weight_decay=0.1)
        return torch.optim.AdamW([p], **options, **({'fused': True} if cuda else {}))

    return Sets(request, make, lambda optimizer: optimizer.step())


def build(request):
    kind, variant, dtype = request['kind'], request['variant'], dtypes[request['dtype']]
    if kind in ('polyRelu', 'polyNorm', 'polyNormGlu', 'rmsNorm'):
        return elementwise(request, kind, variant, dtype)
    if variant == 'liger':
        raise ValueError('liger is measured for PolyNorm alone')
    return {'gemm': gemm, 'attention': attention, 'ffn': ffn, 'moe': moe, 'crossEntropy': cross_entropy, 'copy': copy,
            'adamw': adamw}[kind](request, variant, dtype)


def seconds(case, repeat):
    if not cuda:
        start = time.perf_counter()
        for _ in range(repeat):
            case.run()
        return (time.perf_counter() - start) / repeat
    start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
    start.record()
    for _ in range(repeat):
        case.run()
    end.record()
    end.synchronize()
    return start.elapsed_time(end) / 1e3 / repeat


variants = ['eager']
if cuda:
    variants.append('compile')
    try:
        import liger_kernel  # noqa: F401
        variants.append('liger')
    except ImportError:
        pass
made, refused = {}, {}
print(json.dumps({'torch': torch.__version__, 'device': torch.cuda.get_device_name() if cuda else 'cpu',
                  'variants': variants}), flush=True)
for line in sys.stdin:
    request = json.loads(line)
    if request.get('forget'):
        made.clear()
        if cuda:
            torch.cuda.empty_cache()
        print('{}', flush=True)
        continue
    key = json.dumps(request['case_'], sort_keys=True)
    try:
        if key in refused:
            raise ValueError(refused[key])
        if key not in made:
            made[key] = build(request['case_'])
            for _ in range(3):  # compilation and first calls
                made[key].run()
            if cuda:
                torch.cuda.synchronize()
        answer = {'seconds': seconds(made[key], request.get('repeat', 1))}
    except Exception as error:  # told, not fatal: the other variants go on
        refused[key] = str(error).split('\n')[0]
        answer = {'error': refused[key]}
    print(json.dumps(answer), flush=True)
