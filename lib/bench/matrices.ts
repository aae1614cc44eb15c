// The cases made of matrix products: bare ones, feed-forward layers dense and with experts, attention.
import { grad } from '../grad.ts'
import { native } from '../native.ts'
import { Mlp, Moe } from '../nn/index.ts'
import { tensor, zeros } from '../ops/create.ts'
import { polyNormMlp } from '../ops/index.ts'
import { scope, Tensor } from '../tensor.ts'
import * as oracle from './oracles.ts'
import { bytesOf, dot, expectNear, free, normal, type Place, rowsAt, sets, setsFor, spread, type Work } from './work.ts'

const named = (...lengths: number[]): string => lengths.join(' x ')

// The transpose of a matrix, without a copy.
const turned = (t: Tensor): Tensor => new Tensor(native.permute(t.handle, [1, 0]))

type Layout = 'NN' | 'NT' | 'TN'

// y (m, n) = a (m, k) b (k, n), with each operand stored by rows (N) or turned (T); `adds`: to a float32 y (TN only).
function product(
  [m, n, k]: readonly [number, number, number],
  layout: Layout,
  place: Place,
  { name = `gemm ${layout}`, adds = false }: { name?: string; adds?: boolean } = {},
): Work {
  const { dtype, device } = place
  const bytes = (m * k + k * n) * bytesOf(dtype) + m * n * (adds ? 8 : bytesOf(dtype))
  const count = setsFor(bytes)
  const sum = (): Tensor => zeros([m, n], { dtype: 'float32', device })
  const data = sets(count, () => ({
    a: normal(layout[0] === 'N' ? [m, k] : [k, m], place),
    b: normal(layout[1] === 'N' ? [k, n] : [n, k], place),
    y: adds ? sum() : null,
  }))
  const views = data.map(({ a, b }) => ({
    a: layout[0] === 'N' ? a : turned(a),
    b: layout[1] === 'N' ? b : turned(b),
  }))
  const multiply = (s: number, into: Tensor | null) =>
    into
      ? native.linearGradWeight(data[s]!.b.handle, data[s]!.a.handle, into.handle)
      : native.matmul(views[s]!.a.handle, views[s]!.b.handle)
  return {
    name,
    shape: named(m, n, k),
    dtype,
    bytes,
    operations: 2 * m * n * k,
    sets: count,
    run: (s) => free(multiply(s, data[s]!.y)),
    check: () => {
      const { a, b } = views[0]!
      const y = new Tensor(multiply(0, adds ? sum() : null))
      const [rows, cols] = [spread(m, 4), spread(n, 8)]
      const [as, bs, ys] = [rowsAt(a, rows), rowsAt(turned(b), cols), rowsAt(y, rows)]
      for (const [i, row] of rows.entries())
        expectNear(
          cols.map((c) => ys[i]![c]!),
          bs.map((col) => dot(as[i]!, col)),
          dtype,
          `${name}, row ${row}`,
        )
      y.dispose()
    },
    peer: { kind: 'gemm', m, n, k, layout },
  }
}

/** y (m, n) = a (m, k) b (k, n), with each operand stored by rows (N) or turned (T). Shape: m, n, k. */
export const gemm = ([m, n, k]: readonly number[], place: Place): Work[] =>
  (['NN', 'NT', 'TN'] as const).map((layout) => product([m!, n!, k!], layout, place))
gemm.shape = 'm, n, k'

/**
 * The three products of a layer: forward, the gradient of its input, and that of its weight, added to a float32 one.
 * Shape: tokens, in, out.
 */
export const linear = ([tokens, inputs, outputs]: readonly number[], place: Place): Work[] => {
  const [m, k, n] = [tokens!, inputs!, outputs!]
  return [
    product([m, n, k], 'NT', place, { name: 'linear y = x @ W^T' }),
    product([m, k, n], 'NN', place, { name: 'linear dx = dy @ W' }),
    product([n, k, m], 'TN', place, { name: 'linear dW += dy^T @ x', adds: true }),
  ]
}
linear.shape = 'tokens, in, out'

// Forward and backward of a layer, its gradients freed.
function passes(forward: (x: Tensor) => Tensor, x: Tensor, dy: Tensor, parameters: Tensor[]): (Tensor | null)[] {
  return grad(forward(x), [x, ...parameters], dy)
}

/** A dense feed-forward layer, forward and backward, beside its six bare products. Shape: tokens, width, hidden width. */
export function ffn([tokens, width, hidden]: readonly number[], place: Place): Work[] {
  const { dtype, device } = place
  const operations = 12 * tokens! * width! * hidden!
  const e = bytesOf(dtype)
  // Each product reads its operands and writes its result; what lies between them is the activation's business.
  const bytes = 3 * 2 * (tokens! * width! + tokens! * hidden! + width! * hidden!) * e
  const count = setsFor((2 * tokens! * width! + tokens! * hidden!) * e)
  const data = sets(count, () => ({
    x: Object.assign(normal([tokens!, width!], place), { requiresGrad: true }),
    dy: normal([tokens!, width!], place),
    h: normal([tokens!, hidden!], place),
  }))
  return (['polyrelu', 'polynorm', 'swiglu'] as const).map((act) => {
    // The gated layer has three matrices: two thirds of the width make it as large.
    const inner = act === 'swiglu' ? Math.round((2 * hidden!) / 3 / 64) * 64 || 1 : hidden!
    const layer = new Mlp({ kind: 'dense', hidden: width!, intermediate: inner, act }, { dtype, device })
    const parameters = [...layer.namedParameters().values()]
    const [up, down] = [layer.up_proj.weight, layer.down_proj.weight]
    const bare = (s: number): void => {
      const { x, dy, h } = data[s]!
      free(
        native.linear(x.handle, up.handle, null, null),
        native.linear(h.handle, down.handle, null, null),
        native.linearGradX(dy.handle, down.handle),
        native.linearGradWeight(h.handle, dy.handle, null),
        native.linearGradX(h.handle, up.handle),
        native.linearGradWeight(x.handle, h.handle, null),
      )
    }
    const apart = (s: number): void =>
      scope(() => {
        const { up_proj, act_fn, down_proj } = layer
        const forward = (x: Tensor) => down_proj.forward(act_fn.forward(up_proj.forward(x)))
        passes(forward, data[s]!.x, data[s]!.dy, parameters)
      })
    const again = (s: number): void =>
      scope(() => {
        const { weight, bias } = layer.act_fn
        const weights = { up, down, weight: weight!, bias: bias! }
        passes((x) => polyNormMlp(x, weights, { recompute: true }), data[s]!.x, data[s]!.dy, parameters)
      })
    // Where the layer is one op, also the ops that it stands for, and PolyNorm made again instead of kept.
    const joined = device !== 'cpu' && dtype !== 'float32'
    const beside = { products: bare, ...(joined && { apart }), ...(joined && act === 'polynorm' && { again }) }
    return {
      name: `ffn ${act} forward + backward`,
      shape: named(tokens!, width!, inner),
      dtype,
      bytes,
      operations: act === 'swiglu' ? 18 * tokens! * width! * inner : operations,
      sets: count,
      run: (s) => scope(() => void passes((x) => layer.forward(x).y, data[s]!.x, data[s]!.dy, parameters)),
      check: () =>
        scope(() => {
          if (act === 'swiglu') return // a yardstick, measured but not ours to boast of
          const { x, dy } = data[0]!
          const y = layer.forward(x).y
          const [dx] = grad(y, [x], dy)
          const at = spread(tokens!, 2)
          const all = (t: Tensor) =>
            rowsAt(
              t,
              Array.from({ length: t.shape[0]! }, (_, i) => i),
            )
          const [w1, w2] = [all(up), all(down)]
          const columns = (rows: Float64Array[], j: number) => Float64Array.from(rows, (row) => row[j]!)
          const weight = rowsAt(layer.act_fn.weight!, [0])[0]!
          const p = { weight: [...weight], bias: rowsAt(layer.act_fn.bias!, [0])[0]![0]! }
          const [f, df] =
            act === 'polyrelu' ? [oracle.polyRelu, oracle.polyReluGrad] : [oracle.polyNorm, oracle.polyNormGrad]
          at.forEach((row) => {
            const [v, g] = [rowsAt(x, [row])[0]!, rowsAt(dy, [row])[0]!]
            const h = Float64Array.from(w1, (one) => dot(one, v))
            expectNear(
              rowsAt(y, [row])[0]!,
              w2.map((one) => dot(one, f(h, p))),
              dtype,
              `ffn ${act}, row ${row}`,
            )
            const dh = df(
              h,
              Float64Array.from(h, (_, j) => dot(columns(w2, j), g)),
              p,
            )
            const some = spread(width!, 16)
            expectNear(
              some.map((j) => rowsAt(dx!, [row])[0]![j]!),
              some.map((j) => dot(columns(w1, j), dh)),
              dtype,
              `dx of ffn ${act}, row ${row}`,
            )
          })
        }),
      ...(act !== 'swiglu' && { beside }),
      peer: { kind: 'ffn', act, tokens, width, hidden: inner },
    } satisfies Work
  })
}
ffn.shape = 'tokens, width, hidden width'

/** Experts, PolyNorm, top 2 of 8 by default, forward and backward. Shape: tokens, width, hidden width, experts, top k. */
export function moe([tokens, width, hidden, experts = 8, topK = 2]: readonly number[], place: Place): Work[] {
  const { dtype, device } = place
  const rows = tokens! * topK
  const e = bytesOf(dtype)
  const layer = new Moe(
    { kind: 'moe', hidden: width!, intermediate: hidden!, act: 'polynorm', experts, topK },
    { dtype, device },
  )
  const parameters = [...layer.namedParameters().values()]
  const count = setsFor(2 * tokens! * width! * e)
  const data = sets(count, () => ({
    x: Object.assign(normal([tokens!, width!], place), { requiresGrad: true }),
    dy: normal([tokens!, width!], place),
    // What equal shares would multiply: the products without routing, gathering and combining.
    gathered: normal([rows, width!], place),
    h: normal([rows, hidden!], place),
  }))
  const ends = Array.from({ length: experts + 1 }, (_, i) => Math.floor((i * rows) / experts))
  const offsets = tensor(ends, { dtype: 'int32', device })
  const { up_proj: up, down_proj: down } = layer.experts
  return [
    {
      name: 'moe polynorm forward + backward',
      shape: `${named(tokens!, width!, hidden!)}, top ${topK} of ${experts}`,
      dtype,
      bytes: 3 * 2 * (rows * width! + rows * hidden! + experts * width! * hidden!) * e,
      operations: 12 * rows * width! * hidden!,
      sets: count,
      run: (s) => scope(() => void passes((x) => layer.forward(x).y, data[s]!.x, data[s]!.dy, parameters)),
      check: () =>
        scope(() => {
          const { x } = data[0]!
          const y = layer.forward(x).y
          const all = (t: Tensor) =>
            rowsAt(
              t,
              Array.from({ length: t.size / t.shape.at(-1)! }, (_, i) => i),
            )
          const [router, w1, w2] = [all(layer.gate.weight), all(up.weight), all(down.weight)]
          const p = {
            weight: [...rowsAt(layer.act_fn!.weight!, [0])[0]!],
            bias: rowsAt(layer.act_fn!.bias!, [0])[0]![0]!,
          }
          for (const row of spread(tokens!, 2)) {
            const v = rowsAt(x, [row])[0]!
            const share = oracle.softmax(router.map((one) => dot(one, v)))
            const chosen = [...share.keys()].sort((i, j) => share[j]! - share[i]!).slice(0, topK)
            const expected = new Float64Array(width!)
            for (const expert of chosen) {
              const h = Float64Array.from({ length: hidden! }, (_, j) => dot(w1[expert * hidden! + j]!, v))
              const a = oracle.polyNorm(h, p)
              for (let j = 0; j < width!; j++) expected[j]! += share[expert]! * dot(w2[expert * width! + j]!, a)
            }
            expectNear(rowsAt(y, [row])[0]!, expected, dtype, `moe, row ${row}`)
          }
        }),
      beside: {
        products: (s) => {
          const { gathered, h } = data[s]!
          const [u, d, o] = [up.weight.handle, down.weight.handle, offsets.handle]
          free(
            native.groupedMatmul(gathered.handle, u, o),
            native.groupedMatmul(h.handle, d, o),
            native.groupedMatmulGradX(gathered.handle, d, o),
            native.groupedMatmulGradX(h.handle, u, o),
            native.groupedMatmulGradWeight(gathered.handle, h.handle, u, o, null),
            native.groupedMatmulGradWeight(h.handle, gathered.handle, d, o, null),
          )
        },
      },
      peer: { kind: 'moe', tokens, width, hidden, experts, topK },
    },
  ]
}
moe.shape = 'tokens, width, hidden width, experts, top k'

/** Causal attention, forward and backward. Shape: batch, heads, tokens, head dimension. */
export function attention([batch, heads, tokens, dim]: readonly number[], place: Place): Work[] {
  const { dtype } = place
  const shape = [batch!, heads!, tokens!, dim!]
  const scale = 1 / Math.sqrt(dim!)
  const each = batch! * heads! * tokens! * dim! * bytesOf(dtype)
  // Two products of half the matrix forward; backward is counted as 2.5 times that, as others do.
  const forward = (4 * batch! * heads! * tokens! * tokens! * dim!) / 2
  const count = setsFor(4 * each)
  const data = sets(count, () => {
    const [q, k, v, dy] = [normal(shape, place), normal(shape, place), normal(shape, place), normal(shape, place)]
    const [y, lse] = native.attention(q.handle, k.handle, v.handle, scale, true)
    return { q, k, v, dy, y: new Tensor(y), lse: new Tensor(lse) }
  })
  const base = { shape: named(...shape), dtype, sets: count }
  const peer = { kind: 'attention', batch, heads, tokens, dim }
  // The last head's rows, in float64: scores, their softmax, and what the gradient makes of them.
  const last = batch! * heads! - 1
  const head = (t: Tensor) =>
    rowsAt(
      t,
      Array.from({ length: tokens! }, (_, i) => last * tokens! + i),
    )
  const weights = (q: Float64Array, keys: Float64Array[], row: number) =>
    oracle.softmax(keys.slice(0, row + 1).map((key) => scale * dot(q, key)))
  const mix = (p: ArrayLike<number>, rows: Float64Array[]) =>
    Float64Array.from({ length: dim! }, (_, d) =>
      dot(
        p,
        rows.slice(0, p.length).map((row) => row[d]!),
      ),
    )
  return [
    {
      ...base,
      name: 'attention forward',
      bytes: 4 * each,
      operations: forward,
      run: (s) => free(native.attention(data[s]!.q.handle, data[s]!.k.handle, data[s]!.v.handle, scale, true)),
      check: () => {
        const { q, k, v, y } = data[0]!
        const [qs, ks, vs, ys] = [head(q), head(k), head(v), head(y)]
        for (const row of spread(tokens!, 4))
          expectNear(ys[row]!, mix(weights(qs[row]!, ks, row), vs), dtype, `attention, query ${row}`)
      },
      peer: { ...peer, pass: 'forward' },
    },
    {
      ...base,
      name: 'attention backward',
      bytes: 8 * each,
      operations: 2.5 * forward,
      run: (s) => {
        const { q, k, v, dy, y, lse } = data[s]!
        free(native.attentionGrad(q.handle, k.handle, v.handle, y.handle, lse.handle, dy.handle, scale, true))
      },
      check: () => {
        const { q, k, v, dy, y, lse } = data[0]!
        const [dq, dk, dv] = native
          .attentionGrad(q.handle, k.handle, v.handle, y.handle, lse.handle, dy.handle, scale, true)
          .map((h) => new Tensor(h))
        const [qs, ks, vs, ds, got] = [head(q), head(k), head(v), head(dy), head(dq!)]
        for (const row of spread(tokens!, 4)) {
          const p = weights(qs[row]!, ks, row)
          const dp = vs.slice(0, row + 1).map((value) => dot(ds[row]!, value))
          const mean = dot(p, dp)
          const expected = mix(
            p.map((one, j) => one * (dp[j]! - mean) * scale),
            ks,
          )
          // The first query sees one key, and its gradient is nothing but rounding.
          if (row > 0) expectNear(got[row]!, expected, dtype, `dq of attention, query ${row}`)
        }
        for (const t of [dq, dk, dv]) t!.dispose()
      },
      peer: { ...peer, pass: 'backward' },
    },
  ]
}
attention.shape = 'batch, heads, tokens, head dimension'
