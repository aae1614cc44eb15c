// The cases of row kernels: polynomial activations, norms, the loss, copies, the optimiser.
import { native } from '../native.ts'
import { full, zeros } from '../ops/create.ts'
import { randint } from '../ops/random.ts'
import { AdamW } from '../optim/index.ts'
import { keep, Tensor } from '../tensor.ts'
import * as oracle from './oracles.ts'
import {
  bytesOf,
  expectNear,
  free,
  normal,
  type Place,
  rowsAt,
  sets,
  setsFor,
  small,
  spread,
  type Work,
} from './work.ts'

const named = (...lengths: number[]): string => lengths.join(' x ')
const rowsTitle = 'rows, columns'

type Pass = (set: number) => void

/** PolyReLU, PolyNorm and PolyNorm(gate) * up of order 3, forward and backward. Shape: rows, columns. */
export function poly([rows, cols]: readonly number[], place: Place): Work[] {
  const { dtype, device } = place
  const coefficients = { weight: [0.5, -0.3, 0.8], bias: 0.1 }
  const weight = small(coefficients.weight, device)
  const bias = small([coefficients.bias], device)
  const eps = 1e-6
  const each = rows! * cols! * bytesOf(dtype)
  const shape = named(rows!, cols!)
  const count = setsFor(2 * each)
  const data = sets(count, () => ({ x: normal([rows!, cols!], place), up: normal([rows!, cols!], place) }))
  const at = spread(rows!)
  const [w, b] = [weight.handle, bias.handle]
  const work = (kind: string, pass: string, bytes: number, run: Pass, check: () => void): Work => ({
    name: `${kind} ${pass}`,
    shape,
    dtype,
    bytes: bytes * each,
    operations: 0,
    sets: count,
    run,
    check,
    peer: { kind, pass, rows, cols },
  })
  // One row after another of what `make` gives, against `expected` of the rows that went in.
  const compare = (
    what: string,
    make: () => Tensor,
    expected: (x: Float64Array, up: Float64Array) => Float64Array,
  ): void => {
    const y = make()
    const [xs, ups, ys] = [rowsAt(data[0]!.x, at), rowsAt(data[0]!.up, at), rowsAt(y, at)]
    for (const [i, row] of at.entries()) expectNear(ys[i]!, expected(xs[i]!, ups[i]!), dtype, `${what}, row ${row}`)
    y.dispose()
  }
  const first = (handles: readonly (typeof w)[]): Tensor => {
    free(handles.slice(1))
    return new Tensor(handles[0]!)
  }
  const { x, up } = data[0]!
  return [
    work(
      'polyRelu',
      'forward',
      2,
      (s) => free(native.polyRelu(data[s]!.x.handle, w, b, null)),
      () =>
        compare(
          'polyRelu',
          () => new Tensor(native.polyRelu(x.handle, w, b, null)),
          (v) => oracle.polyRelu(v, coefficients),
        ),
    ),
    work(
      'polyRelu',
      'backward',
      3,
      (s) => free(native.polyReluGrad(data[s]!.x.handle, w, null, data[s]!.up.handle)),
      () => {
        compare(
          'dx of polyRelu',
          () => first(native.polyReluGrad(x.handle, w, null, up.handle)),
          (v, dy) => oracle.polyReluGrad(v, dy, coefficients),
        )
      },
    ),
    work(
      'polyNorm',
      'forward',
      2,
      (s) => free(native.polyNorm(data[s]!.x.handle, w, b, null, eps)),
      () =>
        compare(
          'polyNorm',
          () => new Tensor(native.polyNorm(x.handle, w, b, null, eps)),
          (v) => oracle.polyNorm(v, coefficients),
        ),
    ),
    work(
      'polyNorm',
      'backward',
      3,
      (s) => free(native.polyNormGrad(data[s]!.x.handle, w, null, eps, data[s]!.up.handle)),
      () => {
        compare(
          'dx of polyNorm',
          () => first(native.polyNormGrad(x.handle, w, null, eps, up.handle)),
          (v, dy) => oracle.polyNormGrad(v, dy, coefficients),
        )
      },
    ),
    work(
      'polyNormGlu',
      'forward',
      3,
      (s) => free(native.polyNormGlu(data[s]!.x.handle, data[s]!.up.handle, w, b, null, eps)),
      () =>
        compare(
          'polyNormGlu',
          () => new Tensor(native.polyNormGlu(x.handle, up.handle, w, b, null, eps)),
          (v, u) => oracle.polyNorm(v, coefficients).map((y, i) => y * u[i]!),
        ),
    ),
    work(
      'polyNormGlu',
      'backward',
      5,
      (s) =>
        free(
          native.polyNormGluGrad(
            data[s]!.x.handle,
            data[s]!.up.handle,
            w,
            b,
            null,
            eps,
            data[(s + 1) % count]!.up.handle,
          ),
        ),
      () =>
        compare(
          'dgate of polyNormGlu',
          () => first(native.polyNormGluGrad(x.handle, up.handle, w, b, null, eps, up.handle)),
          (v, u) =>
            oracle.polyNormGrad(
              v,
              u.map((d) => d * d),
              coefficients,
            ),
        ),
    ),
  ]
}
poly.shape = rowsTitle

/** RMSNorm, forward and backward, and with the residual added before. Shape: rows, columns. */
export function norm([rows, cols]: readonly number[], place: Place): Work[] {
  const { dtype, device } = place
  const eps = 1e-5
  const each = rows! * cols! * bytesOf(dtype)
  const count = setsFor(2 * each)
  const weight = normal([cols!], { device, dtype: 'float32' })
  const w = weight.handle
  const data = sets(count, () => {
    const x = normal([rows!, cols!], place)
    const [y, rstd] = native.rmsNorm(x.handle, w, eps)
    free(y)
    return { x, more: normal([rows!, cols!], place), rstd: keep(new Tensor(rstd)) }
  })
  const at = spread(rows!)
  const compare = (
    what: string,
    y: Tensor,
    expected: (x: Float64Array, more: Float64Array, scale: Float64Array) => Float64Array,
  ) => {
    const [xs, mores, ys, [scale]] = [
      rowsAt(data[0]!.x, at),
      rowsAt(data[0]!.more, at),
      rowsAt(y, at),
      rowsAt(weight, [0]),
    ]
    for (const [i, row] of at.entries())
      expectNear(ys[i]!, expected(xs[i]!, mores[i]!, scale!), dtype, `${what}, row ${row}`)
    y.dispose()
  }
  const base = { shape: named(rows!, cols!), dtype, operations: 0, sets: count }
  const { x, more, rstd } = data[0]!
  return [
    {
      ...base,
      name: 'rmsNorm forward',
      bytes: 2 * each,
      run: (s) => free(native.rmsNorm(data[s]!.x.handle, w, eps)),
      check: () => {
        const [y, r] = native.rmsNorm(x.handle, w, eps)
        free(r)
        compare('rmsNorm', new Tensor(y), (v, _, scale) => oracle.rmsNorm(v, scale, eps))
      },
      peer: { kind: 'rmsNorm', pass: 'forward', rows, cols },
    },
    {
      ...base,
      name: 'rmsNorm backward',
      bytes: 3 * each,
      run: (s) =>
        free(native.rmsNormGrad(data[s]!.x.handle, w, data[s]!.rstd.handle, data[s]!.more.handle, null, true)),
      check: () => {
        const [dx, dw] = native.rmsNormGrad(x.handle, w, rstd.handle, more.handle, null, true)
        free(dw)
        compare('dx of rmsNorm', new Tensor(dx), (v, dy, scale) => oracle.rmsNormGrad(v, scale, dy, eps))
      },
      peer: { kind: 'rmsNorm', pass: 'backward', rows, cols },
    },
    {
      ...base,
      name: 'add + rmsNorm forward',
      bytes: 4 * each,
      run: (s) => free(native.addRmsNorm(data[s]!.x.handle, data[s]!.more.handle, w, eps)),
      check: () => {
        const [sum, y, r] = native.addRmsNorm(x.handle, more.handle, w, eps)
        free(r)
        const sums = rowsAt(new Tensor(sum), at)
        compare('addRmsNorm', new Tensor(y), (v, u, scale) => {
          const row = sums.shift()!
          expectNear(
            row,
            v.map((one, i) => one + u[i]!),
            dtype,
            'the sum of addRmsNorm',
          )
          return oracle.rmsNorm(row, scale, eps)
        })
      },
    },
  ]
}
norm.shape = rowsTitle

/** Cross-entropy over logits, forward and backward. Shape: rows, classes. */
export function loss([rows, classes]: readonly number[], place: Place): Work[] {
  const { dtype, device } = place
  const each = rows! * classes! * bytesOf(dtype)
  const count = setsFor(each)
  const one = full([], 1, { device })
  const data = sets(count, () => ({
    logits: normal([rows!, classes!], place, 2),
    targets: randint(0, classes!, [rows!], { device }),
  }))
  const run = (s: number): Tensor => {
    const { logits, targets } = data[s]!
    const [l, stats] = native.crossEntropy(logits.handle, targets.handle, -100)
    const d = native.crossEntropyGrad(logits.handle, targets.handle, -100, stats, one.handle, false)
    free(l, stats)
    return new Tensor(d)
  }
  return [
    {
      name: 'crossEntropy forward + backward',
      shape: named(rows!, classes!),
      dtype,
      bytes: 3 * each,
      operations: 0,
      sets: count,
      run: (s) => run(s).dispose(),
      check: () => {
        const at = spread(rows!)
        const d = run(0)
        const targets = data[0]!.targets.dataSync()
        const [xs, ds] = [rowsAt(data[0]!.logits, at), rowsAt(d, at)]
        at.forEach((row, i) => {
          const expected = oracle.softmax(xs[i]!)
          expected[targets[row]!]! -= 1
          expectNear(
            ds[i]!,
            expected.map((p) => p / rows!),
            dtype,
            `dlogits of crossEntropy, row ${row}`,
          )
        })
        d.dispose()
      },
      peer: { kind: 'crossEntropy', rows, classes },
    },
  ]
}
loss.shape = 'rows, classes'

/** A copy: the ceiling of all that is bound by memory. Shape: elements. */
export function copy([elements]: readonly number[], place: Place): Work[] {
  const each = elements! * bytesOf(place.dtype)
  const count = setsFor(2 * each)
  const data = sets(count, () => ({ from: normal([elements!], place), to: zeros([elements!], place) }))
  return [
    {
      name: 'copy',
      shape: named(elements!),
      dtype: place.dtype,
      bytes: 2 * each,
      operations: 0,
      sets: count,
      run: (s) => native.assign(data[s]!.from.handle, data[s]!.to.handle),
      check: () => {
        native.assign(data[0]!.from.handle, data[0]!.to.handle)
        expectNear(rowsAt(data[0]!.to, [0])[0]!, rowsAt(data[0]!.from, [0])[0]!, place.dtype, 'copy')
      },
      peer: { kind: 'copy', elements },
    },
  ]
}
copy.shape = 'elements'

/** One AdamW update with float32 masters, of 16-bit parameters where the dtype has 16 bits. Shape: parameters. */
export function adamw([elements]: readonly number[], place: Place): Work[] {
  const { dtype, device } = place
  const lr = 1e-3
  const count = setsFor(elements! * 30)
  const make = () => {
    const p = normal([elements!], place)
    p.requiresGrad = true
    const optimizer = new AdamW([p], { lr, betas: [0.9, 0.95], weightDecay: 0.1 })
    native.assign(normal([elements!], { device, dtype: 'float32' }).handle, p.grad!.handle)
    optimizer.clip(0)
    return { p, optimizer }
  }
  const data = sets(count, make)
  return [
    {
      name: 'adamw',
      shape: named(elements!),
      dtype,
      // Of the parameter, its averages (read and written) and its gradient, 4 bytes each; and the 16-bit copy.
      bytes: elements! * (28 + (dtype === 'float32' ? 0 : 2)),
      operations: 0,
      sets: count,
      run: (s) => data[s]!.optimizer.step(),
      check: () => {
        const { p, optimizer } = make()
        const few = Math.min(elements!, 4096)
        const first = (t: Tensor) => rowsAt(new Tensor(native.slice(t.handle, 0, 0, few, 1)), [0])[0]!
        const [before, g] = [first(p), first(p.grad!)]
        optimizer.step()
        // The first step: both averages, corrected for their bias, are the gradient and its square.
        const expected = before.map((v, i) => v - lr * (0.1 * v + g[i]! / (Math.abs(g[i]!) + 1e-8)))
        expectNear(first(p), expected, dtype, 'adamw')
      },
      peer: { kind: 'adamw', elements },
    },
  ]
}
adamw.shape = 'parameters'
