// Plain float64 arrays, from which oracles for broadcasting and reductions are written.

/** Values in row-major order. */
export interface Nd {
  shape: readonly number[]
  data: Float64Array
}

export const size = (shape: readonly number[]): number => shape.reduce((n, d) => n * d, 1)

/** The position on every axis of element `at` in row-major order. */
export function position(at: number, shape: readonly number[]): number[] {
  const out = new Array<number>(shape.length)
  let rest = at
  for (let axis = shape.length - 1; axis >= 0; axis--) {
    out[axis] = rest % shape[axis]!
    rest = Math.floor(rest / shape[axis]!)
  }
  return out
}

/** Element of x at a position; axes of length 1 and missing leading axes are repeated. */
export function at(x: Nd, where: readonly number[]): number {
  let index = 0
  const lead = where.length - x.shape.length
  x.shape.forEach((d, i) => {
    index = index * d + (d === 1 ? 0 : where[i + lead]!)
  })
  return x.data[index]!
}

/** The shape that shapes are broadcast to. */
export function broadcast(...shapes: (readonly number[])[]): number[] {
  const rank = Math.max(...shapes.map((s) => s.length))
  return Array.from({ length: rank }, (_, i) => {
    const lengths = shapes.map((s) => s[i - rank + s.length] ?? 1)
    return lengths.find((d) => d !== 1) ?? 1
  })
}

/** An array of the shape whose element at each position is f(position). */
export function build(shape: readonly number[], f: (where: number[]) => number): Nd {
  const data = new Float64Array(size(shape))
  for (let i = 0; i < data.length; i++) data[i] = f(position(i, shape))
  return { shape, data }
}

/** f of the elements of arrays that are broadcast together. */
export const elementwise =
  (f: (...values: number[]) => number) =>
  (...xs: Nd[]): Nd =>
    build(broadcast(...xs.map((x) => x.shape)), (where) => f(...xs.map((x) => at(x, where))))

/** f of the list of elements that share a position on the kept axes, in row-major order. */
export const reduction =
  (f: (values: number[]) => number, axes?: readonly number[], keepdims = false) =>
  (x: Nd): Nd => {
    const rank = x.shape.length
    const gone = new Set((axes ?? x.shape.map((_, i) => i)).map((a) => (a < 0 ? a + rank : a)))
    const kept = x.shape.map((d, i) => (gone.has(i) ? 1 : d))
    const lists = Array.from({ length: size(kept) }, (): number[] => [])
    x.data.forEach((v, i) => {
      const where = position(i, x.shape)
      const to = kept.reduce((n, d, axis) => n * d + (d === 1 ? 0 : where[axis]!), 0)
      lists[to]!.push(v)
    })
    return { shape: keepdims ? kept : kept.filter((_, i) => !gone.has(i)), data: Float64Array.from(lists, f) }
  }
