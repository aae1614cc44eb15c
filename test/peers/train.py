# Trains the models of config.json in PyTorch, from an init.safetensors and tokens.bin, and prints step, loss, grad_norm, lr
# and the router's losses as expected.jsonl has them: a second opinion, written from the definitions and sharing nothing
# with polygrad. The runs of test/golden whose names are below were made by `train.py --make FOLDER TEXT`; on the other four,
# made elsewhere, it agrees to 1e-6.
#   train.py RUN-FOLDER [--float64]
#   train.py --make FOLDER TEXT      makes all runs again: config.json, init.safetensors, tokens.bin (bytes of TEXT)
import json
import math
import os
import struct
import sys

import torch
import torch.nn.functional as F

DTYPES = {'F32': torch.float32, 'F64': torch.float64, 'BF16': torch.bfloat16}


def load(path):
    data = open(path, 'rb').read()
    size = struct.unpack('<Q', data[:8])[0]
    tensors = {}
    for name, entry in json.loads(data[8:8 + size]).items():
        if name != '__metadata__':
            start, end = (8 + size + offset for offset in entry['data_offsets'])
            flat = torch.frombuffer(bytearray(data[start:end]), dtype=DTYPES[entry['dtype']])
            tensors[name] = flat.reshape(entry['shape']).clone()
    return tensors


def save(path, tensors):
    header, offset, parts = {}, 0, []
    for name, t in tensors.items():
        part = t.contiguous().numpy().tobytes()
        header[name] = {'dtype': 'F32', 'shape': list(t.shape), 'data_offsets': [offset, offset + len(part)]}
        offset += len(part)
        parts.append(part)
    text = json.dumps(header).encode()
    text += b' ' * (-len(text) % 8)
    with open(path, 'wb') as file:
        file.write(struct.pack('<Q', len(text)) + text + b''.join(parts))


def norm(u, eps):
    return u * torch.rsqrt(u.pow(2).mean(-1, keepdim=True) + eps)


def rope(x, theta):
    length, size = x.shape[-2:]
    frequency = 1 / theta ** (torch.arange(0, size, 2, dtype=torch.float64) / size)
    angle = torch.arange(length, dtype=torch.float64)[:, None] * frequency[None]
    cos, sin = (torch.cat([f] * 2, -1).to(x.dtype) for f in (angle.cos(), angle.sin()))
    return x * cos + torch.cat([-x[..., size // 2:], x[..., :size // 2]], -1) * sin


class Model:
    def __init__(self, config, params):
        self.c, self.p = config, params
        self.gated = config['hidden_act'] in ('swiglu', 'polynorm_glu')

    def norm(self, x, name):
        eps, weight = self.c.get('rms_norm_eps', 1e-5), self.p[name + '.weight']
        if self.c.get('norm_type') == 'layer':
            return F.layer_norm(x, (x.shape[-1],), weight, None, eps)
        return norm(x, eps) * weight

    def activation(self, at, h, up):
        kind = self.c['hidden_act']
        if kind.startswith('poly'):
            weight, bias = self.p[at + 'act_fn.weight'], self.p[at + 'act_fn.bias']
            r, eps = len(weight), self.c.get('poly_eps', 1e-6)
            if kind == 'polyrelu':
                return sum(weight[i] * F.relu(h) ** (r - i) for i in range(r)) + bias
            y = sum(weight[i] * norm(h ** (r - i), eps) for i in range(r)) + bias
            return y * up if kind == 'polynorm_glu' else y
        if kind == 'swiglu':
            return F.silu(h) * up
        if kind == 'gelu_tanh':
            return 0.5 * h * (1 + torch.tanh(math.sqrt(2 / math.pi) * (h + 0.044715 * h ** 3)))
        return {'gelu': F.gelu, 'relu': F.relu, 'relu2': lambda u: F.relu(u) ** 2}[kind](h)

    def mlp(self, at, activation_at, x):
        up = x @ self.p[at + 'up_proj.weight'].T
        gate = x @ self.p[at + 'gate_proj.weight'].T if self.gated else up
        return self.activation(activation_at, gate, up) @ self.p[at + 'down_proj.weight'].T

    def moe(self, at, x):
        experts, k, shape = self.c['num_experts'], self.c['num_experts_per_tok'], x.shape
        x = x.reshape(-1, shape[-1])
        logits = x @ self.p[at + 'gate.weight'].T
        probabilities = F.softmax(logits, -1)
        weights, chosen = probabilities.topk(k, -1)
        if self.c.get('norm_topk_prob'):
            weights = weights / weights.sum(-1, keepdim=True)
        y = torch.zeros_like(x)
        for e in range(experts):
            row, slot = torch.where(chosen == e)
            if len(row):
                own = f'{at}experts.{e}.'
                h = self.mlp(own, own if self.c.get('act_per_expert') else at, x[row])
                y = y.index_add(0, row, h * weights[row, slot, None])
        share = F.one_hot(chosen, experts).to(x.dtype).sum((0, 1)) / chosen.numel()
        aux = experts * (share * probabilities.mean(0)).sum()
        return y.reshape(shape), aux, logits.logsumexp(-1).pow(2).mean()

    def attention(self, at, x):
        heads = self.c['num_attention_heads']
        shared = self.c.get('num_key_value_heads', heads)
        size = self.c.get('head_dim') or self.c['hidden_size'] // heads
        B, T, _ = x.shape
        q, k, v = (x @ self.p[f'{at}{name}_proj.weight'].T for name in 'qkv')
        if self.c.get('qk_norm'):
            eps = self.c.get('rms_norm_eps', 1e-5)
            q, k = norm(q, eps) * self.p[at + 'q_norm.weight'], norm(k, eps) * self.p[at + 'k_norm.weight']
        q, k, v = (t.view(B, T, -1, size).transpose(1, 2) for t in (q, k, v))
        q, k = (rope(t, self.c.get('rope_theta', 1e4)) for t in (q, k))
        k, v = (t.repeat_interleave(heads // shared, 1) for t in (k, v))
        mask = torch.full((T, T), float('-inf'), dtype=x.dtype).triu(1)
        p = F.softmax(q @ k.transpose(-1, -2) / math.sqrt(size) + mask, -1)
        return (p @ v).transpose(1, 2).reshape(B, T, -1) @ self.p[at + 'o_proj.weight'].T

    def loss(self, ids, targets):
        x, aux, z, layers = self.p['model.embed_tokens.weight'][ids], 0, 0, self.c['num_hidden_layers']
        for i in range(layers):
            at = f'model.layers.{i}.'
            x = x + self.attention(at + 'self_attn.', self.norm(x, at + 'input_layernorm'))
            h = self.norm(x, at + 'post_attention_layernorm')
            if self.c.get('num_experts', 0):
                y, layer_aux, layer_z = self.moe(at + 'mlp.', h)
                aux, z = aux + layer_aux / layers, z + layer_z / layers
            else:
                y = self.mlp(at + 'mlp.', at + 'mlp.', h)
            x = x + y
        head = 'model.embed_tokens.weight' if self.c.get('tie_word_embeddings') else 'lm_head.weight'
        logits = self.norm(x, 'model.norm') @ self.p[head].T
        loss = F.cross_entropy(logits.flatten(0, 1), targets.flatten())
        total = loss + self.c.get('router_aux_loss_coef', 0.01) * aux + self.c.get('router_z_loss_coef', 0.001) * z
        return loss, total, aux, z


def learning_rate(t, step):
    lr, steps, warmup = t['lr'], t['steps'], t.get('warmup_steps', 0)
    low, schedule = t.get('min_lr', lr / 10), t.get('schedule', 'cosine')
    if step < warmup:
        return lr * (step + 1) / warmup
    if schedule == 'cosine':
        return low + 0.5 * (lr - low) * (1 + math.cos(math.pi * (step - warmup) / (steps - warmup)))
    if schedule == 'wsd' and step >= 0.8 * steps:
        return lr + (low - lr) * (step - 0.8 * steps) / (0.2 * steps)
    return lr


def train(folder, dtype=torch.float32):
    config = json.load(open(os.path.join(folder, 'config.json')))
    t = config['train']
    params = {k: v.to(dtype).requires_grad_() for k, v in load(os.path.join(folder, 'init.safetensors')).items()}
    data = open(os.path.join(folder, 'tokens.bin'), 'rb').read()
    tokens = torch.tensor(struct.unpack(f'<{len(data) // 2}H', data))
    groups = [{'params': [v for v in params.values() if v.dim() == 2], 'weight_decay': t.get('weight_decay', 0.1)},
              {'params': [v for v in params.values() if v.dim() != 2], 'weight_decay': 0.0}]
    optimizer = torch.optim.AdamW(groups, betas=(t.get('beta1', 0.9), t.get('beta2', 0.95)), eps=t.get('adam_eps', 1e-8))
    model, B, T, A = Model(config['model'], params), t['micro_batch_size'], t['seq_len'], t.get('grad_accum', 1)
    position, lines = 0, []
    for step in range(t['steps']):
        for group in optimizer.param_groups:
            group['lr'] = learning_rate(t, step)
        for v in params.values():
            v.grad = torch.zeros_like(v)  # what gets no gradient is updated all the same
        sums = [0.0, 0.0, 0.0]
        for _ in range(A):
            if position + B * T + 1 > len(tokens):
                position = 0
            window = tokens[position:position + B * T + 1]
            position += B * T
            loss, total, aux, z = model.loss(window[:-1].view(B, T), window[1:].view(B, T))
            (total / A).backward()
            sums = [s + float(x) / A for s, x in zip(sums, (loss, aux, z))]
        grad_norm = math.sqrt(sum(float((v.grad.double() ** 2).sum()) for v in params.values()))
        if t.get('grad_clip', 1) > 0:
            for v in params.values():
                v.grad *= min(1, t.get('grad_clip', 1) / (grad_norm + 1e-6))
        optimizer.step()
        line = {'step': step, 'loss': sums[0], 'grad_norm': grad_norm, 'lr': learning_rate(t, step)}
        if config['model'].get('num_experts', 0):
            line |= {'aux_loss': sums[1], 'z_loss': sums[2]}
        lines.append(line)
    return lines


def random_weights(c, seed):
    generator = torch.Generator().manual_seed(seed)
    draw = lambda *shape: torch.randn(*shape, generator=generator)
    p, d, kind, r = {}, c['hidden_size'], c['hidden_act'], c.get('poly_order', 3)
    heads = c['num_attention_heads']
    shared, size = c.get('num_key_value_heads', heads), c.get('head_dim') or d // heads

    def activation(at):
        if kind.startswith('poly'):
            p[at + 'act_fn.weight'] = torch.ones(r) / r + 0.05 * draw(r)
            p[at + 'act_fn.bias'] = 0.1 * draw(1)

    def mlp(at, hidden):
        p[at + 'up_proj.weight'] = draw(hidden, d) * 0.05
        if kind in ('swiglu', 'polynorm_glu'):
            p[at + 'gate_proj.weight'] = draw(hidden, d) * 0.05
        p[at + 'down_proj.weight'] = draw(d, hidden) * 0.05

    p['model.embed_tokens.weight'] = draw(c['vocab_size'], d) * 0.05
    for i in range(c['num_hidden_layers']):
        at = f'model.layers.{i}.'
        p[at + 'input_layernorm.weight'] = 1 + 0.1 * draw(d)
        for name, rows, cols in (('q', heads * size, d), ('k', shared * size, d), ('v', shared * size, d), ('o', d, heads * size)):
            p[f'{at}self_attn.{name}_proj.weight'] = draw(rows, cols) * 0.05
        if c.get('qk_norm'):
            p[at + 'self_attn.q_norm.weight'] = 1 + 0.1 * draw(heads * size)
            p[at + 'self_attn.k_norm.weight'] = 1 + 0.1 * draw(shared * size)
        p[at + 'post_attention_layernorm.weight'] = 1 + 0.1 * draw(d)
        if c.get('num_experts', 0):
            p[at + 'mlp.gate.weight'] = draw(c['num_experts'], d) * 0.25
            for e in range(c['num_experts']):
                mlp(f'{at}mlp.experts.{e}.', c['moe_intermediate_size'])
                if c.get('act_per_expert'):
                    activation(f'{at}mlp.experts.{e}.')
            if not c.get('act_per_expert'):
                activation(at + 'mlp.')
        else:
            mlp(at + 'mlp.', c['intermediate_size'])
            activation(at + 'mlp.')
    p['model.norm.weight'] = 1 + 0.1 * draw(d)
    if not c.get('tie_word_embeddings'):
        p['lm_head.weight'] = draw(c['vocab_size'], d) * 0.05
    return p


MODEL = dict(vocab_size=256, hidden_size=48, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=4,
             intermediate_size=96, rms_norm_eps=1e-5, rope_theta=10000.0, hidden_act='polynorm')
TRAIN = dict(lr=2e-3, min_lr=2e-4, warmup_steps=3, steps=30, weight_decay=0.1, beta1=0.9, beta2=0.95, adam_eps=1e-8,
             grad_clip=1.0, micro_batch_size=3, seq_len=40, grad_accum=1, seed=1)
EXPERTS = dict(num_experts=6, num_experts_per_tok=2, moe_intermediate_size=56)
RUNS = {
    'dense_gelu_layernorm_noclip': (dict(hidden_act='gelu', norm_type='layer'), dict(grad_clip=0, schedule='constant')),
    'dense_gelu_tanh_wsd': (dict(hidden_act='gelu_tanh'), dict(schedule='wsd', warmup_steps=4)),
    'dense_relu_tied_headdim': (dict(hidden_act='relu', tie_word_embeddings=True, head_dim=20), dict(warmup_steps=0)),
    'dense_polynorm_glu': (dict(hidden_act='polynorm_glu'), dict()),
    'dense_wraps': (dict(hidden_act='swiglu'), dict(steps=20)),  # 1000 tokens: the run starts over
    'moe_swiglu_topknorm': (dict(hidden_act='swiglu', norm_topk_prob=True, **EXPERTS), dict(grad_accum=2)),
    'moe_polyrelu_perexpert': (dict(hidden_act='polyrelu', poly_order=2, act_per_expert=True, router_aux_loss_coef=0.05,
                                    router_z_loss_coef=0.01, **EXPERTS), dict()),
}


def make(folder, text):
    for seed, (name, (model, settings)) in enumerate(RUNS.items()):
        c, t, to = {**MODEL, **model}, {**TRAIN, **settings}, os.path.join(folder, name)
        os.makedirs(to, exist_ok=True)
        with open(os.path.join(to, 'config.json'), 'w') as file:
            json.dump({'model': c, 'train': t}, file, indent=1)
        save(os.path.join(to, 'init.safetensors'), random_weights(c, seed))
        count = 1000 if name == 'dense_wraps' else t['steps'] * t['grad_accum'] * t['micro_batch_size'] * t['seq_len'] + 1
        with open(os.path.join(to, 'tokens.bin'), 'wb') as file:
            file.write(struct.pack(f'<{count}H', *open(text, 'rb').read()[seed * 10000:seed * 10000 + count]))
        with open(os.path.join(to, 'expected.jsonl'), 'w') as file:
            file.writelines(json.dumps(line) + '\n' for line in train(to))


if __name__ == '__main__':
    if sys.argv[1] == '--make':
        make(sys.argv[2], sys.argv[3])
    else:
        for line in train(sys.argv[1], torch.float64 if '--float64' in sys.argv else torch.float32):
            print(json.dumps(line))
